"""The stages of ``bench.first_light``: what a GPU is asked in its first ten minutes."""
