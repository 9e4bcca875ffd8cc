"""Other people's wire formats, turned into requests to the speech service and back."""
