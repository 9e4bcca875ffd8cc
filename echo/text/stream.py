"""Text that arrives in pieces, handed out as passages that can be spoken."""

from __future__ import annotations

from dataclasses import dataclass

from echo.text.units import Boundary, Unit, UnitReader, is_speakable


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive text of a :class:`TextStream`, to be spoken as one; :class:`TextChunker` makes it ready."""

    units: tuple[Unit, ...] = ()

    @property
    def source(self) -> str:
        """The text as it was written."""
        return "".join(unit.source for unit in self.units)

    def __bool__(self) -> bool:
        return bool(self.units)

    def __add__(self, later: Passage) -> Passage:
        return Passage(self.units + later.units)


class TextStream:
    """Takes text in pieces of any size, and hands it out in passages.

    ::

        stream.feed("Well, Mr. Smith paid 3")
        stream.take(Boundary.CLAUSE).source     # "Well,"
        stream.feed(".5 dollars. And th")
        stream.take().source                    # " Mr. Smith paid 3.5 dollars."
        stream.flush().source                   # " And th"

    A passage never ends inside a word, a number, an abbreviation or a mark such as ``*sighs*``. All passages together
    are the text (with ``\\r\\n`` as ``\\n``): nothing is lost or handed out twice. Where the sentences end does not
    depend on the pieces. The caller bounds what is pending. ``markup`` False recognises bracketed marks only, as
    ``TextRules.strip_markup``.
    """

    def __init__(self, *, markup: bool = True) -> None:
        self._reader = UnitReader(markup=markup)
        self._units: list[Unit] = []

    @property
    def pending(self) -> str:
        """The text that has not been handed out yet."""
        return "".join(unit.source for unit in self._units) + self._reader.pending

    @property
    def speakable(self) -> bool:
        """Whether there is a letter or a digit in what is pending."""
        return is_speakable(self._reader.pending) or any(is_speakable(unit.source) for unit in self._units)

    def feed(self, text: str) -> None:
        """Take more text."""
        self._units += self._reader.feed(text)

    def take(self, boundary: Boundary = Boundary.SENTENCE, *, eager: bool = False) -> Passage:
        """Hand out all whole sentences; where there is none, what ends at the best break that ``boundary`` allows.

        Empty while there is nothing to speak: a lone dot or quotation mark waits for the words it belongs to.
        ``eager`` trusts a sentence mark at the very end of the text, which might still go on.
        """
        if eager:
            self._cut(Boundary.SENTENCE)
        for kind in (Boundary.CLAUSE, Boundary.WORD):
            if kind <= boundary and not self._has_words():
                self._cut(kind)
        return self._hand_out() if self._has_words() else Passage()

    def flush(self, *, hold_word: bool = False) -> Passage:
        """Hand out everything as if the text ended here, whether there is something to speak in it or not.

        ``hold_word`` keeps a last word that may still be arriving. More text may follow.
        """
        self._units += self._reader.flush(hold_word=hold_word)
        return self._hand_out()

    def _cut(self, kind: Boundary) -> None:
        if unit := self._reader.cut(kind):
            self._units.append(unit)

    def _has_words(self) -> bool:
        return any(is_speakable(unit.text) for unit in self._units)

    def _hand_out(self) -> Passage:
        units, self._units = tuple(self._units), []
        return Passage(units)
