"""Find silences in generated speech with the Silero voice activity detector (VAD)."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from echo.types import Audio

#: The detector's own rate, in Hz.
_RATE = 16_000
#: Shorter speech is still speech: with the package's 250 ms a "Yes." would count as silence.
_SHORTEST_SPEECH_MS = 64
#: Gaps between words below this are part of the speech.
_SHORTEST_SILENCE_MS = 100

Span = tuple[float, float]
"""Start and end in seconds."""


class SpeechDetector:
    """Silero VAD with the weights that come in its package: nothing is downloaded.

    Thread-safe. Works in ``threads`` threads of its own, each with its own model and one torch thread: the model's
    steps are too small for several threads, which would only slow down other work on a busy machine (7 ms per second of
    audio). They start with :meth:`load` or the first use; both block, so use neither on an event loop.
    """

    def __init__(self, threads: int = 2) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None

    def load(self) -> None:
        """Load the models now rather than at the first use."""
        self._started()

    def speech(self, samples: Audio, rate: int) -> list[Span]:
        """Spans with speech, in order, in seconds, to about 30 ms."""
        return self._started().submit(_speech, self._local, samples, rate).result()

    def silences(self, samples: Audio, rate: int) -> list[Span]:
        """Spans without speech, in order, in seconds; a clip without any speech is one silence."""
        duration = len(samples) / rate
        spans = self.speech(samples, rate)
        starts = [0.0, *(end for _, end in spans)]
        ends = [*(start for start, _ in spans), duration]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = self._start()
            return self._pool

    def _start(self) -> ThreadPoolExecutor:
        import torch

        torch_threads = torch.get_num_threads()
        models = [_load_model() for _ in range(self._threads)]
        ready = threading.Barrier(self._threads + 1)
        pool = ThreadPoolExecutor(self._threads, "echo-silero", _enter, (self._local, models, ready))
        for _ in range(self._threads):
            pool.submit(int)  # a thread starts with each task that finds none idle, and none is before the barrier
        ready.wait()
        # set_num_threads is for the calling thread and all that start later: undone here, it lasts in the pool only.
        torch.set_num_threads(torch_threads)
        return pool


def _load_model() -> Any:
    import silero_vad

    with warnings.catch_warnings():
        # The packaged model is TorchScript, whose loader is deprecated; the ONNX copy would need onnxruntime.
        warnings.simplefilter("ignore", DeprecationWarning)
        return silero_vad.load_silero_vad()  # type: ignore[no-untyped-call]


def _enter(local: threading.local, models: list[Any], ready: threading.Barrier) -> None:
    import torch

    torch.set_num_threads(1)
    local.model = models.pop()
    ready.wait()


def _speech(local: threading.local, samples: Audio, rate: int) -> list[Span]:
    import silero_vad
    import torch

    from echo.audio.resample import resample

    spans = silero_vad.get_speech_timestamps(
        torch.from_numpy(resample(samples, rate, _RATE)),
        local.model,
        sampling_rate=_RATE,
        min_speech_duration_ms=_SHORTEST_SPEECH_MS,
        min_silence_duration_ms=_SHORTEST_SILENCE_MS,
        speech_pad_ms=0,
    )
    return [(span["start"] / _RATE, span["end"] / _RATE) for span in spans]


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceRules:
    """A silence of ``threshold_ms`` or more has the block generated again, at most ``max_rerolls`` times."""

    threshold_ms: float = 1000.0
    max_rerolls: int = 3


class SilenceGate:
    """Measures the silence of finished blocks before they are sent. Thread-safe if ``find_silences`` is.

    ``find_silences`` takes samples and their rate, and returns the spans without speech, in order: the method
    ``silences`` of a SpeechDetector.
    """

    def __init__(self, rules: SilenceRules, find_silences: Callable[[Audio, int], Sequence[Span]]) -> None:
        self._rules = rules
        self._find_silences = find_silences

    @property
    def threshold_ms(self) -> float:
        """A block with a silence of at least this length is generated again."""
        return self._rules.threshold_ms

    @property
    def max_rerolls(self) -> int:
        """Most attempts at a block beyond the first."""
        return self._rules.max_rerolls

    def longest_silence_ms(
        self, samples: Audio, rate: int, *, is_last: bool = False, needs_speech: bool = False
    ) -> float:
        """Longest silence of a block that counts, in milliseconds.

        Silences count inside the block and at both its edges, since speech goes on in the next block. In the block
        that ends the utterance (``is_last``), the silence at its very end is natural and does not count. A block that
        must hold speech (``needs_speech``: the first one, and any retry) and does not has an infinite silence, so that
        an attempt with speech is always preferred to it.
        """
        end = len(samples) / rate
        spans = self._find_silences(samples, rate) if len(samples) else [(0.0, 0.0)]
        if needs_speech and any(start <= 0 and stop >= end for start, stop in spans):
            return math.inf
        return max((1000.0 * (stop - start) for start, stop in spans if not (is_last and stop >= end)), default=0.0)
