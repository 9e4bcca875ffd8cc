"""Spelling: punctuation, capitals, and characters that the model cannot read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from echo.text.spell_out import spell_out
from echo.types import TextRules

# Replacements and deletions of the reference streaming server, in its order.
_REPLACEMENTS = (("…", ","), ("—", ", "), ("–", ", "), (":", ","), (";", ","), ("\n", " "))
_DELETED = str.maketrans("", "", '"“”*')

# That server drops what is not ASCII. These stand for something it knows.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛´ʼ", "'"),
        **dict.fromkeys("„‟«»‹›", ""),
        **dict.fromkeys("‒―", ", "),
        **dict.fromkeys("‐‑−", "-"),
        "•": " ",
    }
)
# Symbols (Unicode category So) that are read aloud, unlike pictographs.
_SPOKEN_SYMBOLS = frozenset("°№℃℉")
# Joiners are spelling between letters (Persian, Indic scripts) and glue inside emoji.
_JOINERS = frozenset("\u200c\u200d")
#: Most combining marks on one letter; the rest is dropped. Sorting a run of them takes quadratic time. The limit
#: is that of Unicode's stream-safe format (UAX #15).
_MOST_MARKS = 30
_LEADING_MARKS = re.compile(r"^[\s,.]+(?=\s)")
_TIMES = re.compile(r"(?<=\d)\s?\*\s?(?=\d)")
_EXCLAMATIONS = re.compile(r"!+")
#: A word and its possessive, which stays as written, as in the reference.
_WORD = re.compile(r"\b(\w{2,})('[sS])?\b")
_AFTER_END = re.compile(r"([.!?\]]\s)([^\W\d_])")
_FIRST_LETTER = re.compile(r"^[^\W\d_]")
_SPACE_BEFORE_MARK = re.compile(r"\s+([,.!?]+)(?=\s|$)")
_COMMAS = re.compile(r",(?:\s*,)+")
_COMMA_BEFORE_END = re.compile(r",\s*(?=[.!?](?:\s|$))")


def normalize_exclamation(text: str) -> str:
    """Turn a single ``!`` into ``.`` and a run of them into one ``!``, since the model raises its voice at each."""
    return _EXCLAMATIONS.sub(lambda run: "." if len(run[0]) == 1 else "!", text)


def parse_uppercase_words(lines: Iterable[str]) -> frozenset[str]:
    """Read a keep-list of upper-case words: one per line, ``#`` starts a comment; for ``TextRules.keep_uppercase``."""
    words = (line.split("#", 1)[0].strip().upper() for line in lines)
    return frozenset(word for word in words if word)


def preprocess(text: str, rules: TextRules, *, sentence_start: bool = True) -> str:
    """Rewrite a text in the spelling the model was trained on; no speaker tag is added.

    As in the reference streaming server, pauses become commas, quotation marks and asterisks go, words in capitals
    become lower case unless kept, and sentences begin with a capital. Unlike there, letters of every script stay;
    pictographs and control characters go. ``sentence_start`` False continues a sentence: its first letter stays.
    """
    text = unicodedata.normalize("NFC", _limit_marks(text)).translate(_PLAIN)
    text = _TIMES.sub(" times ", text)
    if rules.spell_out:
        text = spell_out(text)
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    text = text.translate(_DELETED)
    if rules.normalize_exclamation:
        text = normalize_exclamation(text)
    text = _tidy_marks(" ".join(_drop_pictographs(text).split()))
    return raise_sentence_starts(lower_capitals(text, rules.keep_uppercase), first=sentence_start)


def lower_capitals(text: str, kept: frozenset[str]) -> str:
    """Lower every word in capitals that is not ``kept``, by itself or with its possessive."""
    return _WORD.sub(lambda word: _lower_word(word, kept), text)


def raise_sentence_starts(text: str, *, first: bool = True) -> str:
    """Begin every sentence with a capital; ``first`` False leaves the first letter of the text as it is."""
    if first:
        text = _FIRST_LETTER.sub(lambda letter: _upper(letter[0]), text)
    return _AFTER_END.sub(lambda found: found[1] + _upper(found[2]), text)


def _limit_marks(text: str) -> str:
    """Keep at most ``_MOST_MARKS`` combining marks in a row."""
    if text.isascii():
        return text
    kept, run = [], 0
    for char in text:
        run = run + 1 if unicodedata.combining(char) else 0
        if run <= _MOST_MARKS:
            kept.append(char)
    return "".join(kept)


def _lower_word(word: re.Match[str], kept: frozenset[str]) -> str:
    letters, whole = word[1], word[0]
    if not (letters.isalpha() and letters.isupper()) or letters in kept or whole.upper() in kept:
        return whole
    return letters.lower() + (word[2] or "")


def _upper(letter: str) -> str:
    upper = letter.upper()
    return upper if len(upper) == 1 else letter  # "ß" has no single capital


def _drop_pictographs(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    kept = []
    for index, char in enumerate(text):
        if char.isspace():
            kept.append(" ")
        elif char in _JOINERS:
            around = (text[index - 1 : index], text[index + 1 : index + 2])
            kept.append(char if all(unicodedata.category(c)[0] in "LM" for c in around if c) and all(around) else "")
        else:
            kept.append(_replacement(char))
    return "".join(kept)


def _replacement(char: str) -> str:
    """Return the character, a space for a pictograph or an arrow, or nothing."""
    if char.isascii():
        return char if char.isprintable() else ""  # NUL is the model's padding id
    category = unicodedata.category(char)
    if category[0] == "C":
        return ""
    if category in ("So", "Sk", "Me") and char not in _SPOKEN_SYMBOLS:
        return " " if category == "So" else ""
    if "\u2190" <= char <= "\u21ff":  # arrows count as mathematics in part
        return " "
    if "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef":  # variation selectors
        return ""
    return char


def _tidy_marks(text: str) -> str:
    """Remove the gaps and doubled commas that removed words leave before punctuation."""
    text = _COMMAS.sub(",", text)
    text = _COMMA_BEFORE_END.sub("", text)
    text = _SPACE_BEFORE_MARK.sub(r"\1", text)
    return _LEADING_MARKS.sub("", text).lstrip()
