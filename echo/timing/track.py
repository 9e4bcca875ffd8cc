"""When the words of a text are spoken, in the time of who listens: after joining, pauses and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from echo.text.times import Mark, SpokenText, Timed, TimesMethod
from echo.timing.spelling import Written, find_words
from echo.timing.words import TimedWord, WordTimes
from echo.types import AudioFrame

#: Louder than this is speech where its span is measured for an estimate (-40 dBFS).
_AUDIBLE = 0.01


@dataclass(slots=True)
class _Chunk:
    """A chunk that is being spoken.

    attended  finds its words; None as long as no attention has come
    origin    its first sample, in samples of the speech; None until it is heard
    found     words whose times are known, in seconds of the chunk; ``told`` of them have been given out
    marks     those that stand behind the last of these, and last until the next word
    """

    words: Sequence[Written]
    attended: WordTimes | None = None
    aligned: bool = True
    origin: int | None = None
    samples: int = 0
    audible: tuple[int, int] | None = None
    found: list[TimedWord] = field(default_factory=list)
    told: int = 0
    marks: tuple[tuple[int, int], ...] = ()

    def hear(self, frame: AudioFrame) -> None:
        """Note how long the chunk is and where it is audible."""
        loud = np.flatnonzero(np.abs(frame.samples) > _AUDIBLE)
        if len(loud):
            first, last = int(loud[0]) + self.samples, int(loud[-1]) + 1 + self.samples
            self.audible = (self.audible[0] if self.audible else first, last)
        self.samples += len(frame.samples)


class SpeechTimes:
    """Times of the words of ``source``, which is spoken as ``chunks``, one after the other, at ``rate`` Hz.

    ``push`` every frame, ``end`` every chunk, in order. ``words`` grows block by block and is never changed; its times
    are in seconds of what is heard, from the first sample of the speech. ``method`` is what they come from: ESTIMATE as
    soon as one of them is estimated, which happens at the end of a chunk whose engine tells nothing. Words that are not
    spoken, such as markup, are not among them; a mark that stands by itself and is read, such as a dash, is, from the
    word before it to the next. ``push`` and ``end`` are called by one thread at a time.
    """

    def __init__(
        self, source: str, chunks: Sequence[str], rate: int, speed: float = 1.0, *, spelled_out: bool = False
    ) -> None:
        self.source = source
        self.words: list[Timed] = []
        self.method = TimesMethod.ATTENTION if chunks else TimesMethod.ESTIMATE
        self._rate = rate
        self._speed = speed
        self._chunks = [_Chunk(words) for words in find_words(source, chunks, spelled_out=spelled_out)]
        self._marks: list[Mark] = []
        self._end_s = 0.0

    def push(self, index: int, frame: AudioFrame, origin: int | None) -> None:
        """Take the next frame of a chunk.

        ``origin`` is where the chunk's first sample lies, in samples of the speech before a change of speed; None while
        nothing of it is heard. Waits for an attention that is still on its way from the device.
        """
        chunk = self._chunks[index]
        chunk.origin = origin if chunk.origin is None else chunk.origin
        chunk.hear(frame)
        if frame.attention is None:
            chunk.aligned = chunk.aligned and not len(frame.samples)
        elif chunk.aligned:
            attention = frame.attention()
            if chunk.attended is None:
                chunk.attended = WordTimes(chunk.words, attention.shape[1], self._rate)
            chunk.found += chunk.attended.push(attention, frame.samples)
            if frame.is_last:
                chunk.found += chunk.attended.finish()
        self._tell(chunk)

    def end(self, index: int) -> None:
        """End a chunk: the times of all of its words are known now."""
        chunk = self._chunks[index]
        if chunk.aligned and chunk.attended is not None:
            chunk.found += chunk.attended.finish()
        else:
            self.method = TimesMethod.ESTIMATE
            chunk.found += self._estimated(chunk)
        if chunk.origin is None:  # it made no sound, and nothing of it is heard
            chunk.origin = round(self._end_s * self._speed * self._rate) - chunk.samples
        self._tell(chunk)
        self._tell_marks(chunk, self._end_s, self._end_s)

    def spoken(self) -> SpokenText:
        """Return the source with all times that are known so far."""
        start, end = (self.words[0].start_s, self._end_s) if self.words else (0.0, 0.0)
        return SpokenText(text=self.source, start_s=start, end_s=end, marks=tuple(self._marks), method=self.method)

    def _estimated(self, chunk: _Chunk) -> list[TimedWord]:
        """The words that have not been found, spread evenly over the rest of the chunk's sound."""
        words = chunk.words[len(chunk.found) :]
        if not words:
            return []
        begin, end = (edge / self._rate for edge in chunk.audible or (0, chunk.samples))
        begin = min(end, max([begin, *(word.end_s for word in chunk.found[-1:])]))
        first = words[0].place
        spread = SpokenText(text=self.source[first : words[-1].end], start_s=begin, end_s=end)
        return [
            TimedWord.of(word, [spread.at(place - first) for place, _ in word.chars], spread.at(word.end - first))
            for word in words
        ]

    def _tell(self, chunk: _Chunk) -> None:
        """Give out what has been found of a chunk, once it is known where that is heard."""
        if chunk.origin is None:
            return
        origin_s = chunk.origin / self._rate
        for word in chunk.found[chunk.told :]:
            ended_s = start_s = self._end_s
            for mark in word.marks:
                self._end_s = max(self._end_s, (origin_s + mark.at_s) / self._speed)
                self._marks.append(Mark(mark.place, self._end_s))
                start_s = self._end_s if mark is word.marks[0] else start_s
            self._tell_marks(chunk, ended_s, start_s)
            self._add(word.word.place, word.word.end, start_s, self._end_s)
            chunk.marks = word.word.marks
        chunk.told = len(chunk.found)

    def _tell_marks(self, chunk: _Chunk, start_s: float, end_s: float) -> None:
        """Give out the marks behind the last word, which share this time."""
        length_s = (end_s - start_s) / max(1, len(chunk.marks))
        for number, (place, end) in enumerate(chunk.marks):
            self._add(place, end, start_s + number * length_s, start_s + (number + 1) * length_s)
        chunk.marks = ()

    def _add(self, place: int, end: int, start_s: float, end_s: float) -> None:
        self.words.append(Timed(self.source[place:end], round(start_s, 3), round(end_s, 3)))
