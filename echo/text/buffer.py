"""When text that is still being written is spoken: rules over a :class:`TextStream`, without clock or socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from echo.text.sentences import CLAUSE_END
from echo.text.stream import Passage, TextStream
from echo.text.units import Boundary, is_speakable

#: A buffer holds at most this many characters; then they are spoken whatever the rules say (Inworld's limit).
MAX_BUFFERED = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakRules:
    """When buffered text is spoken without a flush. Lengths are characters of buffered text; None = never.

    whole            nothing: all text is one passage, however long it becomes; no other rule applies
    pieces           every piece of text is spoken as it comes
    hold_word        with ``pieces``: but for a last word without a blank behind it, which may still be arriving
    sentences_from   all whole sentences
    clauses_from     where no sentence is whole, up to the last end of a clause
    first_clause_from  the same, for the first passage only
    words_from       as many sentences as there are, else clauses, else words: one length per passage, the last repeats
    eager            trust a sentence mark at the very end of the text, which might still go on
    single           one sentence per passage, however many have arrived; with ``clauses_from``, one clause
    max_delay_s      all of it, this long after the last text
    """

    whole: bool = False
    pieces: bool = False
    hold_word: bool = False
    sentences_from: int | None = None
    clauses_from: int | None = None
    first_clause_from: int | None = None
    words_from: tuple[int, ...] = (MAX_BUFFERED,)
    eager: bool = False
    single: bool = False
    max_delay_s: float | None = None


#: Speak the first clause at once, so that the listener hears something, and whole sentences from then on.
EARLY = SpeakRules(sentences_from=0, first_clause_from=0)


class TextBuffer:
    """Text that waits to be spoken. Times are seconds of any one clock. ``markup`` as for :class:`TextStream`."""

    def __init__(self, rules: SpeakRules, *, markup: bool = True) -> None:
        self.rules = rules
        self._stream = TextStream(markup=markup)
        self._held: list[str] = []  # with ``whole``: text that the stream has not been given yet
        self._held_length = 0
        self._last_text_at = 0.0
        self._passages = 0

    @property
    def deadline(self) -> float | None:
        """When the buffered text is due even if nothing more comes; None = never."""
        if self.rules.max_delay_s is None or not self._stream.speakable:
            return None
        return self._last_text_at + self.rules.max_delay_s

    @property
    def length(self) -> int:
        """Characters that wait."""
        return len(self._stream.pending) + self._held_length

    def append(self, text: str, now: float) -> list[Passage]:
        """Add text; return the passages to speak now."""
        self._last_text_at = now
        if self.rules.whole:  # looking at all of it for every piece would take time quadratic in its length
            self._held.append(text)
            self._held_length += len(text)
            return []
        if not (self.rules.single and self.rules.clauses_from is not None):
            self._stream.feed(text)
            return self._count(self._due())
        passages: list[Passage] = []
        for piece in _clauses(text):
            self._stream.feed(piece)
            while due := self._count(self._due()):  # a sentence, then the clause behind it
                passages += due
        return passages

    def speakable_now(self) -> list[Passage]:
        """Return the passages that can be spoken now: whole sentences, else what ends a clause, whatever the rules."""
        self._release()
        return self._count(self._stream.take(Boundary.CLAUSE, eager=True))

    def flush(self) -> list[Passage]:
        """Empty the buffer; return the passages that were in it, none when there is nothing to speak."""
        self._release()
        speakable = self._stream.speakable
        passage = self._stream.flush()
        return self._count(passage) if speakable else []

    def _release(self) -> None:
        if self._held:
            self._stream.feed("".join(self._held))
            self._held, self._held_length = [], 0

    def _count(self, due: Passage) -> list[Passage]:
        passages = list(_sentences(due)) if self.rules.single else [due] if due else []
        self._passages += len(passages)
        return passages

    def _due(self) -> Passage:
        rules, stream = self.rules, self._stream
        if rules.pieces and stream.speakable:
            return stream.flush(hold_word=rules.hold_word)
        due = Passage()
        if self._reaches(rules.sentences_from):
            due += stream.take(eager=rules.eager)
        clauses_from = rules.clauses_from if self._passages or due else rules.first_clause_from
        if clauses_from is None:
            clauses_from = rules.clauses_from
        if not due and self._reaches(clauses_from):
            due += stream.take(Boundary.CLAUSE, eager=rules.eager)
        words_from = rules.words_from[min(self._passages, len(rules.words_from) - 1)]
        while self._reaches(min(words_from, MAX_BUFFERED)) and (passage := stream.take(Boundary.WORD, eager=True)):
            due += passage
        if self._reaches(MAX_BUFFERED):
            due += stream.flush(hold_word=True)
        if self._reaches(MAX_BUFFERED):
            due += stream.flush()
        return due

    def _reaches(self, length: int | None) -> bool:
        return length is not None and self.length >= length


def _clauses(text: str) -> Iterator[str]:
    """Cut a text behind each end of a clause and the blank that shows it, which may be the text's first character."""
    ends = [1] if text[:1].isspace() else []
    ends += [min(found.end() + 1, len(text)) for found in CLAUSE_END.finditer(text)]
    for start, end in pairwise([0, *ends, len(text)]):
        if start < end:
            yield text[start:end]


def _sentences(passage: Passage) -> Iterator[Passage]:
    """Cut a passage after each of its sentences; what cannot be spoken goes with the sentence after it."""
    units = list(passage.units)
    while units:
        end = next((n for n, unit in enumerate(units, 1) if is_speakable(unit.text)), len(units))
        if not any(is_speakable(unit.text) for unit in units[end:]):
            end = len(units)
        yield Passage(tuple(units[:end]))
        units = units[end:]
