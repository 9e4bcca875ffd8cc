"""The recipe of the embedded model: synthesised speech, codec, diffusion transformer, evaluation, export."""
