"""The server's own HTTP surface, in OpenAI's shape."""
