"""Judges from packages that ship their weights: recognisers, predictors of listeners' opinions, a speaker encoder."""
