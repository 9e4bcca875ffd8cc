"""The server on many GPUs, by Ray Serve: ``serve run scale.app:app``."""
