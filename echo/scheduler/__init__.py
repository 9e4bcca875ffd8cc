"""Step-level continuous batching: which work the device does next, and doing it."""
