"""When words are spoken: from the model's attention to the text, or estimated."""
