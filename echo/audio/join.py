"""Joins a request's frames into one stream of samples: natural pauses between chunks, no clicks, no delay of speech."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echo.audio.measure import silence_threshold, sound_span, window_levels
from echo.types import Audio, AudioFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRules:
    """How chunks are put together; times in milliseconds.

    ``pause_ms`` is the silence from the last sound of a chunk to the first of the next, where the text asks for none.
    Of the generated silence at most ``lead_ms`` stay before a later chunk's first sound, and ``tail_ms`` after the last
    sound of the stream. Both are also margins for consonants too soft to be distinguished from silence.
    The first ``settle_ms`` of every chunk are muted: a causal decoder that starts on nothing ticks before it settles.
    """

    pause_ms: float = 220.0
    lead_ms: float = 30.0
    tail_ms: float = 120.0
    fade_ms: float = 5.0
    settle_ms: float = 3.0


class Joiner:
    """Joins the frames of consecutive chunks into one stream of samples.

    ``push`` every frame of a chunk, ``end_chunk`` after its last, ``finish`` once after the last chunk; each returns
    the samples that are ready. ``rest``, between two chunks, gives out what is held if the next may be late.
    The frames of a chunk follow each other to the sample (the decoder is causal), so they pass untouched and at once
    but for the last ``fade_ms``. Something changes only at the edges of chunks:

    - a chunk starts muted and faded in, for ``settle_ms`` and ``fade_ms``;
    - the silence that opens a later chunk is trimmed; so is the silence that ends the frame marked ``is_last``, which
      is held until it is known what follows; too short a silence is filled up with zeros;
    - a pause that the text asks for is exactly that many zeros, between a trimmed tail and a trimmed opening;
    - an edge is faded over half of the silence left there, and over at least ``fade_ms``.

    ``origin`` is where the chunk's own first sample lies, in samples from the first that the last ``push`` returned: it
    may lie before it, where the chunk's opening was trimmed. None until the chunk has made a sound.

    Silence at the end of a frame that is not the last has been sent: it counts, but cannot be trimmed any more.
    What is silence depends on the loudest sound so far (:func:`~echo.audio.measure.silence_threshold`).
    """

    def __init__(self, rate: int, rules: JoinRules | None = None) -> None:
        rules = rules or JoinRules()
        self._rate = rate
        self._pause = self._count(rules.pause_ms)
        self._lead = self._count(rules.lead_ms)
        self._tail_limit = self._count(rules.tail_ms)
        self._fade = max(1, self._count(rules.fade_ms))
        self._settle = self._count(rules.settle_ms)
        self._tail = _Tail(self._fade)
        self._loudest = 0.0
        self._started = False
        self._fresh = True  # no sample of the chunk has come
        self._has_last = False  # the frame that ends the chunk has come
        self._between = False  # a chunk has ended and the next has made no sound yet
        self._gap_open = False  # the silence between the two is still to be emitted
        self._rested = 0  # samples of it that ``rest`` has emitted
        self._opening = _NOTHING  # the latest silence of the chunk that has made no sound yet
        self._pushed = 0  # samples of the chunk
        self.origin: int | None = None

    def push(self, frame: AudioFrame) -> Audio:
        """Samples that are ready; raises ValueError for another sample rate or a frame after a chunk's last."""
        if frame.sample_rate != self._rate:
            raise ValueError(f"a frame at {frame.sample_rate} Hz in a stream at {self._rate} Hz")
        if self._has_last:
            raise ValueError("the chunk has had its last frame; call end_chunk before the next")
        self._has_last = frame.is_last
        samples = self._settled(frame.samples)
        before, self._pushed = self._pushed, self._pushed + len(samples)
        self._loudest = max(self._loudest, float(np.max(window_levels(samples, self._rate), initial=0.0)))
        if not self._between:
            self._started = self._started or len(samples) > 0
            self.origin = self._tail.length - before
            return self._tail.take(samples, self._sound_end(samples), frame.is_last)
        samples = np.concatenate([self._opening, samples])
        span = sound_span(samples, self._rate, silence_threshold(self._loudest))
        if span is None:
            self._opening = samples[max(0, len(samples) - self._lead) :]
            return _NOTHING
        lead = min(span[0], self._lead)
        gap = self._close_gap(lead)
        self._between = False
        samples = _faded_in(samples[span[0] - lead :], max(self._fade, lead // 2))
        self.origin = len(gap) + len(samples) - self._pushed
        return np.concatenate([gap, self._tail.take(samples, self._sound_end(samples), frame.is_last)])

    def end_chunk(self, pause_after_ms: float = 0.0) -> Audio:
        """End the chunk; the pause after it is emitted at once when the text asks for one."""
        self._fresh, self._has_last = True, False
        self._pushed, self.origin = 0, None
        self._opening = _NOTHING
        if self._started and not self._between:
            self._between = self._gap_open = True
        if not pause_after_ms:
            return _NOTHING
        closed = self._close_tail()
        self._started = self._between = True
        return np.concatenate([closed, np.zeros(self._count(pause_after_ms), np.float32)])

    def rest(self) -> Audio:
        """The silence that the chunk has left, as much of it as at the end of the stream."""
        if not self._gap_open or self._rested:
            return _NOTHING
        samples, self._rested = self._tail.close(self._tail_limit)
        return samples

    def resume(self) -> None:
        """Go on without a pause: the listener has heard silence since the last chunk."""
        if self._gap_open:
            self._rested = self._pause

    def finish(self) -> Audio:
        """The end of the stream: what the last sound leaves behind, faded out; nothing after a pause."""
        if self._started and not self._between:
            self._between = self._gap_open = True
        return self._close_tail()

    def _settled(self, samples: Audio) -> Audio:
        if not self._fresh or not len(samples):
            return samples
        self._fresh = False
        muted = min(self._settle, len(samples))
        return np.concatenate([np.zeros(muted, np.float32), _faded_in(samples[muted:], self._fade)])

    def _close_gap(self, lead: int) -> Audio:
        """The silence between two chunks, up to the ``lead`` samples of it that the later one brings."""
        if not self._gap_open:
            return _NOTHING
        self._gap_open = False
        wanted = max(0, self._pause - lead - self._rested)
        self._rested = 0
        tail, silence = self._tail.close(wanted)
        return np.concatenate([tail, np.zeros(max(0, wanted - silence), np.float32)])

    def _close_tail(self) -> Audio:
        if not self._gap_open:
            return _NOTHING
        self._gap_open, self._rested = False, 0
        return self._tail.close(self._tail_limit)[0]

    def _sound_end(self, samples: Audio) -> int:
        span = sound_span(samples, self._rate, silence_threshold(self._loudest))
        return 0 if span is None else span[1]

    def _count(self, milliseconds: float) -> int:
        return round(milliseconds * self._rate / 1000)


class _Tail:
    """Holds back the end of the stream: the fade length, or after a chunk's last frame all trailing silence."""

    def __init__(self, fade: int) -> None:
        self._fade = fade
        self._held = _NOTHING
        self._silence = 0  # samples since the last sound, emitted or held

    @property
    def length(self) -> int:
        """Samples that are held."""
        return len(self._held)

    def take(self, samples: Audio, sound_end: int, is_last: bool) -> Audio:
        """Add a frame whose last sound ends at ``sound_end`` (0: all silence); returns what need not be held."""
        self._silence = len(samples) - sound_end + (0 if sound_end else self._silence)
        joined = np.concatenate([self._held, samples])
        hold = max(self._fade, self._silence if is_last else 0)
        ready = joined[: max(0, len(joined) - hold)]
        self._held = joined[len(ready) :]
        return ready

    def close(self, silence: int) -> tuple[Audio, int]:
        """What is held, faded out, cut to ``silence`` samples since the last sound; and how many those are in fact."""
        cut = min(max(0, self._silence - silence), max(0, len(self._held) - self._fade))
        kept, left = self._held[: len(self._held) - cut], self._silence - cut
        fade = min(max(self._fade, left // 2), len(kept))
        self._held, self._silence = _NOTHING, 0
        return np.concatenate([kept[: len(kept) - fade], kept[len(kept) - fade :] * rising(fade)[::-1]]), left


def rising(length: int) -> Audio:
    """Half a raised cosine, from exactly 0 up to nearly 1; backwards it fades out and ends on 0."""
    curve: Audio = (0.5 - 0.5 * np.cos(np.pi / max(1, length) * np.arange(length))).astype(np.float32)
    return curve


def _faded_in(samples: Audio, fade: int) -> Audio:
    fade = min(fade, len(samples))
    return np.concatenate([samples[:fade] * rising(fade), samples[fade:]])


def _nothing() -> Audio:
    empty = np.zeros(0, np.float32)
    empty.setflags(write=False)
    return empty


_NOTHING = _nothing()
