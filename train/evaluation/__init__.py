"""Evaluation: what a recogniser, a pitch tracker and a stop-watch say of any checkpoint, beside its teacher."""
