"""When a context speaks the text that it has been sent: Inworld's own settings, without clock or socket."""

from __future__ import annotations

from dataclasses import dataclass

from echo.text import Boundary, TextStream

#: Text that a context holds at most before it is spoken whatever its settings say (Inworld's limit, in characters).
MAX_BUFFERED = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferRules:
    """When text is spoken without a flush.

    threshold    from this many characters on: as many whole sentences as there are, else clauses, else words
    max_delay_s  all of it, this long after the last text; None = never
    phrases      every text is a phrase of its own and is spoken at once
    sentences    sentence by sentence
    """

    threshold: int = MAX_BUFFERED
    max_delay_s: float | None = None
    phrases: bool = False
    sentences: bool = False


class TextBuffer:
    """The text of one context. Times are seconds of any one clock. ``markup`` as for :class:`TextStream`."""

    def __init__(self, rules: BufferRules, *, markup: bool = True) -> None:
        self.rules = rules
        self._stream = TextStream(markup=markup)
        self._last_text_at = 0.0

    @property
    def deadline(self) -> float | None:
        """When the buffered text is due even if nothing more comes; None = never."""
        if self.rules.max_delay_s is None or not self._stream.speakable:
            return None
        return self._last_text_at + self.rules.max_delay_s

    def append(self, text: str, now: float) -> str:
        """Add text; return what to speak now, "" for nothing."""
        self._stream.feed(text)
        self._last_text_at = now
        return self._due().strip()

    def flush(self) -> str:
        """Empty the buffer and return what was in it; "" when there is nothing to speak."""
        speakable = self._stream.speakable
        text = self._stream.flush().source.strip()
        return text if speakable else ""

    def _due(self) -> str:
        stream = self._stream
        if self.rules.phrases and stream.speakable:
            return stream.flush().source
        due = stream.take().source if self.rules.sentences else ""
        threshold = min(self.rules.threshold, MAX_BUFFERED)
        while len(stream.pending) >= threshold and (passage := stream.take(Boundary.WORD, eager=True)):
            due += passage.source
        if len(stream.pending) >= MAX_BUFFERED:
            due += stream.flush(hold_word=True).source
        if len(stream.pending) >= MAX_BUFFERED:
            due += stream.flush().source
        return due
