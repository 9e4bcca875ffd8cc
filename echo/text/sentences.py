"""Where sentences and clauses end, and which speaker says them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

# The reference streaming server's list: a dot after one of these does not end a sentence.
_LISTED = "a.m. approx. dept. dr. e.g. etc. hon. i.e. jr. mr. mrs. ms. p.m. prof. rev. sr. st. u.k. u.s. vs."
ABBREVIATIONS = frozenset(_LISTED.split())
_LONGEST_ABBREVIATION = max(map(len, ABBREVIATIONS))
_OPENERS = "\"'“‘«([*_"

#: The last mark of a sentence with its closing quotes and brackets. The full stops of some scripts need no space after.
#: Not every match ends a sentence: see :func:`ends_sentence`.
SENTENCE_MARK = re.compile(
    r"(?:\.{0,8}[!?؟۔।][.!?]{0,8}|\.)[\"'”’»)\]*_]{0,4}(?=\s|$)"
    r"|[。！？｡]{1,8}[」』”’）]{0,4}"
)
#: The end of a clause within a sentence.
CLAUSE_END = re.compile(r"[,;:](?=\s)|[、，；：]")
#: A speaker tag; three digits at most, so that a tag always fits into a chunk.
SPEAKER_TAG = re.compile(r"\[S[0-9]{1,3}\]")
_ITEM_NUMBER = re.compile(r"\s*\d{1,3}\.")


def split_sentences(text: str) -> list[str]:
    """Split a text into stripped sentences; their words are those of the text, in order."""
    ends = [0]
    for mark in SENTENCE_MARK.finditer(text):
        if ends_sentence(mark, ends[-1]):
            ends.append(mark.end())
    sentences = (text[start:end].strip() for start, end in pairwise([*ends, len(text)]))
    return [sentence for sentence in sentences if sentence]


def ends_sentence(mark: re.Match[str], start: int = 0) -> bool:
    """Tell whether a match of ``SENTENCE_MARK`` ends the sentence that begins at ``start``.

    Only a single dot can fail to: after an abbreviation, an initial ("J. R. R. Tolkien") or an item's number
    ("1. First"), beside another dot, or inside a number.
    """
    text, dot = mark.string, mark.start()
    if text[dot] != "." or "!" in mark[0] or "?" in mark[0]:
        return True
    before, after = text[dot - 1 : dot] if dot > start else "", text[dot + 1 : dot + 2]
    if "." in (before, after) or (before.isdigit() and after.isdigit()):
        return False
    if before.isdigit() and _ITEM_NUMBER.fullmatch(text, start, dot + 1):
        return False
    words = text[max(start, dot - _LONGEST_ABBREVIATION - len(_OPENERS)) : dot + 1].split()
    word = words[-1].lstrip(_OPENERS) if words else ""
    if len(word) == 2 and word[0].isupper() and word != "I.":
        return False  # an initial
    return word.lower() not in ABBREVIATIONS


def split_speakers(text: str, tag: str) -> Iterator[tuple[str, str]]:
    """Yield (speaker tag, stripped text) for every speaker; ``tag`` is in force at the start, a text may be empty."""
    start = 0
    for found in SPEAKER_TAG.finditer(text):
        yield tag, text[start : found.start()].strip()
        tag, start = found[0], found.end()
    yield tag, text[start:].strip()
