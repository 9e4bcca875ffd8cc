"""Subtitles of what is spoken, as a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from echo.api import TimedAudio
from echo.text.captions import CaptionFormat, captions, written
from echo.text.times import Timed, TimesMethod
from echo.types import Audio


class Subtitles:
    """Notes the words that pass and writes them to ``path``, as SubRip or WebVTT by its suffix.

    Raises ValueError for another suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: What the times come from; None before any words are known.
        self.method: TimesMethod | None = None
        self._format = CaptionFormat(path.suffix.lower())
        self._words: list[Timed] = []

    def note(self, spoken: Iterable[TimedAudio]) -> Iterator[Audio]:
        """Pass the samples on."""
        for piece in spoken:
            self._words += piece.words
            self.method = piece.timestamps_method if self._words else None
            yield piece.samples

    def write(self) -> None:
        """Write what has been noted; raises OSError."""
        self._write([self._words])

    def write_pieces(self, pieces: Sequence[Sequence[Timed]], method: TimesMethod) -> None:
        """Write the words of the pieces of a book, no caption over two of them; raises OSError."""
        self.method = method if any(pieces) else None
        self._write(pieces)

    def _write(self, pieces: Sequence[Sequence[Timed]]) -> None:
        found = [caption for words in pieces for caption in captions(words)]
        self.path.write_text(written(found, self._format), encoding="utf-8", newline="\n")
