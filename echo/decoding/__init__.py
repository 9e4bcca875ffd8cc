"""Decoding audio files that strangers have sent, in processes of their own that may fail without harm."""
