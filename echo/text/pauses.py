"""Pauses an author writes into the text: ``[pause:1.5s]``, ``[pause 500ms]``, ``<break time="2s"/>``."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Longest silence between two words, in milliseconds; adjacent marks add up to at most this.
MAX_PAUSE_MS = 10_000
#: Length of a ``<break/>`` without a time, in milliseconds.
DEFAULT_PAUSE_MS = 500

_AMOUNT = r"(\d{1,6}(?:\.\d{1,6})?|\.\d{1,6})\s{0,4}(ms|seconds?|secs?|s)"
PAUSE_MARK = re.compile(
    rf"\[\s{{0,4}}pause\s{{0,4}}[:=]?\s{{0,4}}{_AMOUNT}\s{{0,4}}\]"
    rf"|<break(?:\s[^<>\n]{{0,80}}?\btime\s{{0,4}}=\s{{0,4}}[\"']?{_AMOUNT}[\"']?)?(?:\s[^<>\n]{{0,80}})?/?>",
    re.IGNORECASE,
)


def split_pauses(text: str) -> Iterator[tuple[str, int]]:
    """Yield (text, pause in milliseconds after it); the last text has none."""
    start = 0
    for mark in PAUSE_MARK.finditer(text):
        yield text[start : mark.start()], _pause_ms(mark)
        start = mark.end()
    yield text[start:], 0


def _pause_ms(mark: re.Match[str]) -> int:
    amount, unit = mark[1] or mark[3], mark[2] or mark[4]
    if amount is None:
        return DEFAULT_PAUSE_MS
    return min(MAX_PAUSE_MS, round(float(amount) * (1 if unit.lower() == "ms" else 1000)))
