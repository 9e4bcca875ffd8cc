"""Which audio a request gets: encoding, rate, streamed or whole. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from echo.errors import BadRequest
from echo.types import AudioFormat, Encoding

SampleRate = Literal[8000, 16000, 22050, 24000, 44100, 48000]
SAMPLE_RATES: tuple[int, ...] = get_args(SampleRate)

#: The values of ``response_format``, in the order they are listed to clients.
FORMATS = (Encoding.MP3, Encoding.OPUS, Encoding.AAC, Encoding.FLAC, Encoding.WAV, Encoding.PCM)

#: What OpenAI's own service sends as pcm; pipecat and livekit label every byte so without looking at a header.
_OPENAI_PCM_RATE = 24_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The fields of a request that decide what it gets; None where the client did not say."""

    response_format: str | None = None
    stream: bool | None = None
    sse: bool = False
    model: str | None = None
    sample_rate: int | None = None
    wav_streaming: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What it gets.

    ``whole``: one body with Content-Length instead of a stream. ``streaming``: the block shape, small first block or
    one large block.
    """

    format: AudioFormat
    whole: bool
    streaming: bool
    sse: bool = False


def decide(wish: Wish, *, pcm_sample_rate: int | None, available: Collection[Encoding]) -> Delivery:
    """Settle encoding, sample rate and way of sending.

    ``pcm_sample_rate`` is the operator's setting, ``available`` what this host can encode. Raises BadRequest for a
    ``response_format`` that is unknown or not available.
    """
    encoding = _encoding(wish, available)
    unsized = encoding is Encoding.WAV and (wish.sse or (wish.wav_streaming and wish.stream is not False))
    whole = not wish.sse and (wish.stream is False or (encoding is Encoding.WAV and not unsized))
    return Delivery(
        format=AudioFormat(encoding=encoding, sample_rate=_rate(wish, encoding, pcm_sample_rate), unsized=unsized),
        whole=whole,
        streaming=_streaming(wish, whole),
        sse=wish.sse,
    )


def _encoding(wish: Wish, available: Collection[Encoding]) -> Encoding:
    supported = [encoding for encoding in FORMATS if encoding in available]
    if wish.response_format is None:
        # A request that carries a model is OpenAI's, where mp3 is the default: Open WebUI and LibreChat rely on it.
        # Existing Echo clients name no model and expect a stream of pcm.
        if wish.stream is True or (wish.stream is None and wish.model is None):
            return Encoding.PCM
        return Encoding.MP3 if Encoding.MP3 in available else Encoding.WAV
    if wish.response_format not in supported:
        names = ", ".join(supported)
        raise BadRequest(
            f"response_format: must be one of {names}.", param="response_format", code="unsupported_format"
        )
    return Encoding(wish.response_format)


def _rate(wish: Wish, encoding: Encoding, pcm_sample_rate: int | None) -> int | None:
    if wish.sample_rate is not None or encoding is not Encoding.PCM:
        return wish.sample_rate
    if pcm_sample_rate is not None:
        return pcm_sample_rate
    model = wish.model or ""
    openai = model in ("tts-1", "tts-1-hd") or model.startswith("gpt-4o-mini-tts")
    return _OPENAI_PCM_RATE if openai else None


def _streaming(wish: Wish, whole: bool) -> bool:
    # Existing Echo clients stream unless they say otherwise, a whole wav included: its blocks can stop early and be
    # drawn again one by one.
    if wish.stream is not None:
        return wish.stream or wish.sse
    return not whole or wish.model is None
