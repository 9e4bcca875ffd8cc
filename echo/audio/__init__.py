"""Everything done to audio samples outside the model: joining, stretching, resampling, encoding, measuring."""
