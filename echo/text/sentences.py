"""Where sentences end, and which speaker says them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

# The reference streaming server's list: a dot after one of these does not end a sentence.
_LISTED = "a.m. approx. dept. dr. e.g. etc. hon. i.e. jr. mr. mrs. ms. p.m. prof. rev. sr. st. u.k. u.s. vs."
ABBREVIATIONS = frozenset(_LISTED.split())
# That server looks for the abbreviation in a window of this many characters that ends at the dot.
_ABBREVIATION_WINDOW = 11
_OPENERS = "\"'“‘«([*_"


@dataclass(frozen=True, slots=True)
class SentenceRules:
    """What may follow a sentence's last mark, and which dots do not end one.

    ``end`` matches the mark with its closers. ``plain_words`` strips opening quotes and brackets before a word is
    looked up as an abbreviation, and knows initials ("J. R. R. Tolkien") and the number of an item ("1. First").
    """

    end: re.Pattern[str]
    plain_words: bool


#: The reference streaming server: one quote may follow the mark, then whitespace or the end.
REFERENCE_SENTENCES = SentenceRules(re.compile(r"[.!?][\"']?(?=\s|$)"), plain_words=False)
#: This server: runs of marks, any closers, and the full stops of other scripts; some of them need no space after.
SENTENCES = SentenceRules(
    re.compile(
        r"(?:\.{0,8}[!?؟۔।][.!?]{0,8}|\.)[\"'”’»)\]*_]{0,4}(?=\s|$)"
        r"|[。！？｡]{1,8}[」』”’）]{0,4}"
    ),
    plain_words=True,
)

#: A speaker tag as the reference streaming server reads it.
REFERENCE_TAG = re.compile(r"\[S\d+\]")
#: A speaker tag; three digits at most, so that a tag always fits into a chunk.
SPEAKER_TAG = re.compile(r"\[S[0-9]{1,3}\]")
_LIST_ITEM = re.compile(r"\s*(?:[-•*]|\d+\.)\s")
_ITEM_NUMBER = re.compile(r"\s*\d{1,3}\.")


def split_sentences(text: str, rules: SentenceRules = SENTENCES) -> list[str]:
    """Split a text into stripped sentences; their words are those of the text, in order."""
    if not rules.plain_words and _LIST_ITEM.match(text):
        return [text.strip()]  # the reference takes a segment that opens like a list item for one sentence
    ends = [0, *_sentence_ends(text, rules), len(text)]
    sentences = (text[start:end].strip() for start, end in pairwise(ends))
    return [sentence for sentence in sentences if sentence]


def last_sentence_end(text: str) -> int:
    """Return where the last sentence that is certainly over ends, 0 if none is.

    For text that is still arriving: a mark at the very end may go on ("3." to "3.5", "He said no." to a closing quote).
    """
    return max((end for end in _sentence_ends(text, SENTENCES) if end < len(text)), default=0)


def _sentence_ends(text: str, rules: SentenceRules) -> Iterator[int]:
    start = 0
    for mark in rules.end.finditer(text):
        if ends_sentence(mark, start, rules):
            start = mark.end()
            yield start


def ends_sentence(found: re.Match[str], start: int = 0, rules: SentenceRules = SENTENCES) -> bool:
    """Tell whether a match of ``rules.end`` ends the sentence that begins at ``start``.

    Only a single dot can fail to: after an abbreviation or an initial, beside another dot, inside a number,
    after an item's number.
    """
    text, mark = found.string, found.start()
    if text[mark] != "." or "!" in found[0] or "?" in found[0]:
        return True
    before, after = text[mark - 1 : mark] if mark else "", text[mark + 1 : mark + 2]
    if before == "." or after == ".":
        return False
    if before.isdigit() and (after.isdigit() or after == "."):
        return False
    if rules.plain_words and before.isdigit() and _ITEM_NUMBER.fullmatch(text, start, mark + 1):
        return False
    window = text[max(0, mark + 1 - _ABBREVIATION_WINDOW) : mark + 1].split()
    word = window[-1] if window else ""
    if rules.plain_words:
        word = word.lstrip(_OPENERS)
        if len(word) == 2 and word[0].isupper() and word != "I.":
            return False  # an initial
    return word.lower() not in ABBREVIATIONS


def split_speakers(text: str, tag: str, pattern: re.Pattern[str] = SPEAKER_TAG) -> Iterator[tuple[str, str]]:
    """Yield (tag in force, stripped text) at every speaker tag; the text is empty where a tag stands alone."""
    start = 0
    for found in pattern.finditer(text):
        yield tag, text[start : found.start()].strip()
        tag, start = found[0], found.end()
    yield tag, text[start:].strip()
