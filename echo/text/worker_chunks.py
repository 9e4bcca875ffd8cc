"""Chunks by characters and by duration, exactly as the serverless worker makes them; for its jobs only."""

from __future__ import annotations

import re

#: The worker's speaking rate, in characters per second of target duration.
CHARS_PER_S = 12
#: A last chunk shorter than this many characters joins the one before it.
SHORTEST_TAIL = 24

_CLOSERS = re.escape("\"')]}”’")
_SENTENCE_GAP = re.compile(rf"(?<=[.!?])\s|(?<=[.!?][{_CLOSERS}])\s")
_CLAUSE_GAP = re.compile(rf"(?<=[,;:])\s|(?<=[,;:][{_CLOSERS}])\s")
_GAP = re.compile(r"\s")


def chunk_by_chars_and_duration(text: str, max_chars: int = 300, target_s: float = 10.0) -> list[str]:
    """Split by characters and by a target duration in seconds, and join a very short last chunk to the one before."""
    chunks = chunk_by_chars(text, min(max_chars, int(target_s * CHARS_PER_S)))
    if len(chunks) > 1 and len(chunks[-1]) < SHORTEST_TAIL:
        tail = chunks.pop()
        chunks[-1] = f"{chunks[-1]} {tail}"
    return chunks


def chunk_by_chars(text: str, max_chars: int = 300) -> list[str]:
    """Split a text into chunks of at most ``max_chars`` characters; 0 does not split.

    Each cut is at the last sentence end that fits, else the last clause mark, else the last space, else anywhere.
    """
    rest = " ".join(text.split())
    chunks = []
    while max_chars > 0 and len(rest) > max_chars:
        place = _last_gap(rest[: max_chars + 1]) or max_chars
        chunks.append(rest[:place].strip())
        rest = rest[place:].strip()
    return [*chunks, rest] if rest else chunks


def _last_gap(window: str) -> int:
    """Index of the last space after a sentence, else after a clause, else of any space; 0 if there is none."""
    for gap in (_SENTENCE_GAP, _CLAUSE_GAP, _GAP):
        places = [found.start() for found in gap.finditer(window)]
        if places:
            return places[-1]
    return 0
