"""What the command line shows and plays."""
