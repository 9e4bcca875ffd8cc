"""Engines: things that speak."""
