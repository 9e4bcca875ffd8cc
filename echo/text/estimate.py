"""How long a text takes to speak, guessed from its letters and words."""

from __future__ import annotations

# What the reference streaming server falls back to when a rate is zero or negative.
FALLBACK_CHARS_PER_S = 4.0
FALLBACK_WORDS_PER_S = 2.5


def estimate_seconds(text: str, chars_per_s: float, words_per_s: float) -> float:
    """Estimate the speaking time of ``text`` in seconds: the slower of its characters and its words.

    ``chars_per_s`` and ``words_per_s`` at or below zero fall back to 4.0 and 2.5. An empty text counts as one word.
    """
    chars_rate = chars_per_s if chars_per_s > 0 else FALLBACK_CHARS_PER_S
    words_rate = words_per_s if words_per_s > 0 else FALLBACK_WORDS_PER_S
    return max(len(text) / chars_rate, max(1, len(text.split())) / words_rate)
