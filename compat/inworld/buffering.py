"""When text that arrives in pieces is spoken: the buffering rules of one socket context, without clock or socket."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Text that a context holds at most before it is spoken whatever its settings say (Inworld's limit, in characters).
MAX_BUFFERED = 1_000

_SENTENCE_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+(?=\s)|[。！？]+["”’」』]*""")
#: A dot after these ends no sentence.
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "e.g", "i.e", "approx"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferRules:
    """When a buffer is spoken without being told to.

    ``threshold`` is in characters, ``max_delay_s`` counts from the last text (None = never). ``phrases``: every text
    is a phrase of its own, spoken at once. ``sentences``: raw tokens, spoken sentence by sentence.
    """

    threshold: int = MAX_BUFFERED
    max_delay_s: float | None = None
    phrases: bool = False
    sentences: bool = False


class TextBuffer:
    """Collects text and says which of it to speak now. Times are seconds of any one clock."""

    def __init__(self, rules: BufferRules) -> None:
        self.rules = rules
        self._text = ""
        self._last = 0.0

    @property
    def deadline(self) -> float | None:
        """When the buffered text is due even if nothing more comes; None = never."""
        if self.rules.max_delay_s is None or not _speakable(self._text):
            return None
        return self._last + self.rules.max_delay_s

    def append(self, text: str, now: float) -> str:
        """Add text; return what to speak now, "" for nothing. Words are never cut."""
        self._text += text
        self._last = now
        cut = self._due()
        if not _speakable(self._text[:cut]):
            # A lone blank or dot waits for the words it belongs to, but not for ever.
            return "" if len(self._text) <= 2 * MAX_BUFFERED else self.flush()
        spoken, self._text = self._text[:cut], self._text[cut:]
        return spoken.strip()

    def flush(self) -> str:
        """Empty the buffer and return what was in it; "" when there is nothing to speak."""
        text, self._text = self._text, ""
        return text.strip() if _speakable(text) else ""

    def _due(self) -> int:
        if self.rules.phrases:
            return len(self._text)
        threshold = min(self.rules.threshold, MAX_BUFFERED)
        full = len(self._text) >= threshold
        if full and not self._text[-1].isalnum():
            return len(self._text)
        cut = _sentence_end(self._text) if full or self.rules.sentences else 0
        if len(self._text) - cut >= threshold:
            cut = _word_end(self._text)
        return cut


def _sentence_end(text: str) -> int:
    """Return where the last complete sentence ends, 0 when none does; a mark at the very end may go on ("3.5")."""
    end = 0
    for mark in _SENTENCE_END.finditer(text):
        if mark.group() != "." or not _is_abbreviation(_word_before(text, mark.start())):
            end = mark.end()
    return end


def _is_abbreviation(word: str) -> bool:
    """Tell whether a single dot after ``word`` is part of it: "Mr.", "J.", "3."."""
    word = word.lstrip("\"'“‘(").lower()
    return word in _ABBREVIATIONS or (len(word) == 1 and word != "i") or word.isdigit()


def _word_before(text: str, place: int) -> str:
    start = place
    while start and not text[start - 1].isspace():
        start -= 1
    return text[start:place]


def _word_end(text: str) -> int:
    """Return where the last complete word ends; the whole length where there is only one word."""
    return len(text) - len(_word_before(text, len(text))) or len(text)


def _speakable(text: str) -> bool:
    return any(char.isalnum() for char in text)
