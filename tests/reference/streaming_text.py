"""Text as the reference streaming server prepares it: ASCII only, and sentences packed by time but never cut.

The product reads other scripts and cuts a sentence that is too long for the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from echo.text.normalize import lower_capitals, normalize_exclamation, raise_sentence_starts
from echo.text.pack import estimate_seconds
from echo.text.sentences import ABBREVIATIONS
from echo.text.tokenize import DEFAULT_TAG, tag_untagged
from echo.types import ChunkRules

_REPLACEMENTS = (("…", ","), ("—", ", "), ("–", ", "), (":", ","), (";", ","), ("\n", " "))
_DELETED = str.maketrans("", "", '"“”*')
_TAG = re.compile(r"\[S\d+\]")
_LIST_ITEM = re.compile(r"\s*(?:[-•*]|\d+\.)\s")
#: One quote may follow the mark, then whitespace or the end.
_SENTENCE_END = re.compile(r"[.!?][\"']?(?=\s|$)")
#: The server looks for an abbreviation in this many characters up to the dot.
_ABBREVIATION_WINDOW = 11


def preprocess_for_stream(text: str, *, exclamation: bool = True, keep_uppercase: frozenset[str] = frozenset()) -> str:
    """Preprocess a text, default tag in front; ``exclamation`` is the server's ``normalize_exclamation``."""
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    text = text.translate(_DELETED)
    if exclamation:
        text = normalize_exclamation(text)
    text = "".join(char for char in text if char.isascii() and (char.isspace() or char.isprintable()))
    text = raise_sentence_starts(lower_capitals(" ".join(text.split()), keep_uppercase))
    return tag_untagged(text) if text else ""


def chunk_by_time(preprocessed: str, rules: ChunkRules) -> list[str]:
    """Split a preprocessed text by estimated seconds; only the durations and rates of ``rules`` count."""
    chunks: list[str] = []
    parts: list[str] = []
    seconds, last_tag = 0.0, ""

    def close() -> None:
        nonlocal seconds
        if parts:
            chunks.append(" ".join(parts))
        parts.clear()
        seconds = 0.0

    for tag, sentence in _sentences(preprocessed):
        length = estimate_seconds(sentence, rules.chars_per_s, rules.words_per_s)
        total = seconds + length
        if parts and ((total > rules.target_s and seconds >= rules.min_s) or total > rules.max_s):
            close()
        parts.append(sentence if parts and tag == last_tag else f"{tag} {sentence}")
        seconds += length
        last_tag = tag
        if seconds >= rules.max_s or (seconds >= rules.target_s and seconds >= rules.min_s):
            close()
    close()
    return chunks


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    tag, start = DEFAULT_TAG, 0
    for found in [*_TAG.finditer(text), None]:
        for sentence in _split(text[start : found.start() if found else None].strip()):
            yield tag, sentence
        if found:
            tag, start = found[0], found.end()


def _split(segment: str) -> list[str]:
    if _LIST_ITEM.match(segment):
        return [segment]  # a segment that opens like a list item is one sentence
    ends = [found.end() for found in _SENTENCE_END.finditer(segment) if _ends(segment, found)]
    sentences = (segment[start:end].strip() for start, end in pairwise([0, *ends, len(segment)]))
    return [sentence for sentence in sentences if sentence]


def _ends(text: str, found: re.Match[str]) -> bool:
    dot = found.start()
    if text[dot] != ".":
        return True
    before, after = text[dot - 1 : dot] if dot else "", text[dot + 1 : dot + 2]
    if "." in (before, after) or (before.isdigit() and after.isdigit()):
        return False
    words = text[max(0, dot + 1 - _ABBREVIATION_WINDOW) : dot + 1].split()
    return not words or words[-1].lower() not in ABBREVIATIONS
