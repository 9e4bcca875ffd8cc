"""The splitters of the reference programs, for results identical to theirs; the server's own is in ``chunk.py``."""

from __future__ import annotations

import re

from echo.text.normalize import preprocess
from echo.text.pack import Packer, PackRules
from echo.text.sentences import REFERENCE_SENTENCES, REFERENCE_TAG, split_sentences, split_speakers
from echo.text.tokenize import DEFAULT_TAG, tag_untagged
from echo.types import ChunkRules, TextRules

#: The serverless worker's speaking rate, in characters per second of target duration.
WORKER_CHARS_PER_S = 12
#: A last piece shorter than this many characters joins its predecessor in the serverless worker.
WORKER_SHORTEST_TAIL = 24

_CLOSERS = "\"')]}”’"
_SENTENCE_GAP = re.compile(rf"(?<=[.!?])\s|(?<=[.!?][{re.escape(_CLOSERS)}])\s")
_CLAUSE_GAP = re.compile(rf"(?<=[,;:])\s|(?<=[,;:][{re.escape(_CLOSERS)}])\s")
_GAP = re.compile(r"\s")


def preprocess_for_stream(
    text: str, *, normalize_exclamation: bool = True, keep_uppercase: frozenset[str] = frozenset()
) -> str:
    """Preprocess a text exactly as the reference streaming server does: ASCII only, default tag in front."""
    rules = TextRules(normalize_exclamation=normalize_exclamation, keep_uppercase=keep_uppercase, ascii_only=True)
    clean = preprocess(text, rules)
    return tag_untagged(clean) if clean else ""


def chunk_by_time(preprocessed: str, rules: ChunkRules) -> list[str]:
    """Split a preprocessed text by estimated seconds (reference streaming server); a sentence is never cut.

    Only the durations and rates of ``rules`` count, not its sizes.
    """
    packer = Packer(
        PackRules(
            target_s=rules.target_s,
            min_s=rules.min_s,
            max_s=rules.max_s,
            chars_per_s=rules.chars_per_s,
            words_per_s=rules.words_per_s,
            cut=False,
        )
    )
    chunks = []
    for tag, segment in split_speakers(preprocessed, DEFAULT_TAG, REFERENCE_TAG):
        for sentence in split_sentences(segment, REFERENCE_SENTENCES):
            chunks += packer.add(tag, sentence)
    return chunks + packer.close()


def chunk_by_chars(text: str, max_chars: int = 300) -> list[str]:
    """Split a text into pieces of at most ``max_chars`` characters (reference pipeline).

    Each cut is at the last sentence end that fits, else the last clause mark, else the last space, else anywhere.
    ``max_chars`` 0 does not split.
    """
    rest = " ".join(text.split())
    pieces = []
    while max_chars > 0 and len(rest) > max_chars:
        place = _last_gap(rest[: max_chars + 1]) or max_chars
        pieces.append(rest[:place].strip())
        rest = rest[place:].strip()
    return [*pieces, rest] if rest else pieces


def chunk_by_chars_and_duration(text: str, max_chars: int = 300, target_s: float = 10.0) -> list[str]:
    """Split by characters and by a target duration in seconds (serverless worker); a very short tail is joined on."""
    pieces = chunk_by_chars(text, min(max_chars, int(target_s * WORKER_CHARS_PER_S)))
    if len(pieces) > 1 and len(pieces[-1]) < WORKER_SHORTEST_TAIL:
        tail = pieces.pop()
        pieces[-1] = f"{pieces[-1]} {tail}"
    return pieces


def _last_gap(window: str) -> int:
    """Index of the last space after a sentence, else after a clause, else of any space; 0 if there is none."""
    for gap in (_SENTENCE_GAP, _CLAUSE_GAP, _GAP):
        places = [found.start() for found in gap.finditer(window)]
        if places:
            return places[-1]
    return 0
