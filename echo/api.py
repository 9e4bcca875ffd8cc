"""The Python API: ``echo.load()`` -> speak to an array, to a file's bytes, or to an iterator of frames.

It drives the same runtime and service as the server, on an event loop of its own in a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np
from pydantic import ValidationError

from echo.errors import BadRequest
from echo.options import EmotionOptions, EngineOptions
from echo.runtime import Runtime
from echo.service import SpeechService, SpeechStream
from echo.settings import Settings, load_settings, warn_of_unknown
from echo.text.times import Timed, TimesMethod
from echo.timing.track import SpeechTimes
from echo.types import Audio, AudioFormat, Encoding, EngineInfo, SpeechRequest, VoiceRef

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class TimedAudio:
    """A piece of speech, and the words whose times have become known with it.

    samples            mono float32 in -1..1, shape [n]
    words              in order, each once over the whole stream, with its punctuation; seconds from the first sample
    timestamps_method  what the times come from, so far: the model's attention to the text, or an estimate
    """

    samples: Audio
    words: tuple[Timed, ...]
    timestamps_method: TimesMethod


def load(model: str | None = None, **settings: Any) -> Speech:
    """Load a model and return something that speaks.

    ``model`` is a hub repository, a local folder or ``"tiny"``; None picks as the server does. ``settings`` are fields
    of :class:`echo.settings.Settings` (``device="cuda"``, ``voices_dir=...``); the environment fills in the rest.
    Raises ConfigError for a wrong setting and NotReady, with the reason, when the model cannot be loaded.
    """
    warn_of_unknown()
    return Speech(load_settings(model_repo=model, **settings))


class Speech:
    """A loaded model that speaks. A context manager; ``close`` frees the device."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="echo-api", daemon=True)
        self._thread.start()
        self._runtime = Runtime(settings)
        try:
            self._call(self._runtime.__aenter__())
            self._call(self._runtime.ready())
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """Name, device and limits of the engine."""
        return self._runtime.service.engine.info

    @property
    def sample_rate(self) -> int:
        """Rate of what ``speak`` and ``stream`` return, in Hz."""
        return self.info.sample_rate

    def voices(self) -> list[str]:
        """Return the names of the voices, sorted."""
        return [voice.id for voice in self._runtime.voices.list()]

    def speak(self, text: str, *, voice: str | Path | bytes | None = None, **options: Any) -> Audio:
        """Speak a text and return mono float32 samples in -1..1, shape [n]; arguments as for :meth:`stream`."""
        return np.concatenate([np.zeros(0, np.float32), *self.stream(text, voice=voice, **options)])

    @overload
    def stream(
        self, text: str, *, times: Literal[False] = False, voice: str | Path | bytes | None = None, **options: Any
    ) -> Iterator[Audio]: ...

    @overload
    def stream(
        self, text: str, *, times: Literal[True], voice: str | Path | bytes | None = None, **options: Any
    ) -> Iterator[TimedAudio]: ...

    def stream(
        self, text: str, *, times: bool = False, voice: str | Path | bytes | None = None, **options: Any
    ) -> Iterator[Audio] | Iterator[TimedAudio]:
        """Speak a text and yield samples as they are made, float32 [n] each, at the rate of ``model``'s engine.

        ``voice`` is a name of the library or the engine, a path to a clip, or the bytes of one. ``times`` yields
        :class:`TimedAudio` instead, samples with the words whose times have become known. Further arguments are
        ``seed``, ``speed``, ``preset``, ``model``, which names the engine (None = the default one), and the engine's
        options (``num_steps``, ``cfg_scale_text``, …). Dropping the iterator stops the generation. Raises BadRequest,
        VoiceNotFound or EngineFailed.
        """
        request, service = self._request(text, AudioFormat(encoding=Encoding.F32), voice, times=times, **options)
        pieces = self._pieces(service, request)
        if times:
            return _timed(pieces)
        return (np.frombuffer(data, np.float32) for data, _ in pieces)

    def encode(
        self, text: str, audio_format: AudioFormat, *, voice: str | Path | bytes | None = None, **options: Any
    ) -> Iterator[bytes]:
        """Speak a text and yield the bytes of a file in ``audio_format``; other arguments as for :meth:`stream`."""
        request, service = self._request(text, audio_format, voice, **options)
        return (data for data, _ in self._pieces(service, request))

    def _request(
        self,
        text: str,
        audio_format: AudioFormat,
        voice: str | Path | bytes | None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        preset: str | None = None,
        model: str | None = None,
        times: bool = False,
        **options: Any,
    ) -> tuple[SpeechRequest, SpeechService]:
        service = self._runtime.services.of(model)
        checked = _options(options, service.rules.engine_options)
        request = SpeechRequest(
            text=text,
            voice=_voice(voice),
            format=audio_format,
            options=checked.options(),
            engine_options=checked.others(),
            emotion=checked.emotion(),
            preset=preset,
            seed=seed,
            speed=speed,
            times=times,
        )
        return request, service

    def _pieces(self, service: SpeechService, request: SpeechRequest) -> Iterator[tuple[bytes, SpeechTimes | None]]:
        """Yield the bytes of the answer, with what notes its times."""
        stream = self._call(service.open(request))
        try:
            while (data := self._call(_next(stream))) is not None:
                yield data, stream.times
        finally:
            if not self._loop.is_closed():  # as it is for an iterator that outlives the model
                self._loop.call_soon_threadsafe(stream.close)

    def close(self) -> None:
        """Stop and free the device."""
        if self._loop.is_closed():
            return
        self._call(self._runtime.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _timed(pieces: Iterator[tuple[bytes, SpeechTimes | None]]) -> Iterator[TimedAudio]:
    told = 0
    times: SpeechTimes | None = None
    for data, times in pieces:
        assert times is not None
        words, told = times.words[told:], len(times.words)
        yield TimedAudio(np.frombuffer(data, np.float32), tuple(words), times.method)
    if times is not None and len(times.words) > told:
        yield TimedAudio(np.zeros(0, np.float32), tuple(times.words[told:]), times.method)


async def _next(stream: SpeechStream) -> bytes | None:
    return await anext(stream, None)


def _voice(voice: str | Path | bytes | None) -> VoiceRef:
    if isinstance(voice, bytes):
        return VoiceRef(audio=voice)
    if isinstance(voice, Path):
        return VoiceRef(audio=voice.read_bytes())
    return VoiceRef(name=voice)


class _Options(EngineOptions, EmotionOptions):
    pass


def _options(options: dict[str, Any], of_engines: frozenset[str]) -> _Options:
    """Return the options, checked; those that only an engine knows are checked by it."""
    if unknown := sorted(set(options) - set(_Options.model_fields) - of_engines):
        raise BadRequest(f"{unknown[0]}: unknown option.", param=unknown[0])
    try:
        return _Options.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None
        message = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{name}: {message}." if name else f"{message}.", param=name) from error
