"""Recipes that train models for the server; nothing at run time imports this package."""
