"""Which output a request gets: encoding, sample rate, streamed or whole. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from echo.errors import BadRequest
from echo.types import AudioFormat, Encoding
from routes.body import SpeechBody

#: The values of ``response_format``, in the order they are listed to clients.
FORMATS = (Encoding.MP3, Encoding.OPUS, Encoding.AAC, Encoding.FLAC, Encoding.WAV, Encoding.PCM)

#: What OpenAI's own service sends as pcm; pipecat and livekit label every byte so without looking at a header.
_OPENAI_PCM_RATE = 24_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlan:
    """How the answer is encoded and sent.

    format     what the encoder makes
    whole      one body with Content-Length instead of a stream
    streaming  the block shape: a small first block, or one large block
    sse        server-sent events instead of bare audio
    """

    format: AudioFormat
    whole: bool
    streaming: bool
    sse: bool


def resolve_output(
    body: SpeechBody, *, pcm_sample_rate: int | None, wav_streaming: bool, available: Collection[Encoding]
) -> OutputPlan:
    """Settle encoding, sample rate and way of sending.

    ``pcm_sample_rate`` and ``wav_streaming`` are the operator's defaults, ``available`` what this host can encode.
    Raises BadRequest for a ``response_format`` that is unknown or not available, and for times of words that a bare
    stream of audio has no place for.
    """
    encoding = _encoding(body, available)
    sse = body.stream_format == "sse"
    progressive = wav_streaming if body.wav_streaming is None else body.wav_streaming
    # Times of words are known at the end: a header can have them only if the audio waits for it.
    in_one = body.stream is False or (bool(body.word_timestamps) and body.stream is None)
    unsized = encoding is Encoding.WAV and (sse or (progressive and not in_one))
    whole = not sse and (in_one or (encoding is Encoding.WAV and not unsized))
    if body.word_timestamps and not whole and not sse:
        raise BadRequest(
            "word_timestamps: a stream needs stream_format 'sse' for them; without it, stream must not be true.",
            param="word_timestamps",
        )
    return OutputPlan(
        format=AudioFormat(encoding=encoding, sample_rate=_rate(body, encoding, pcm_sample_rate), unsized=unsized),
        whole=whole,
        streaming=_streaming(body, whole=whole, sse=sse),
        sse=sse,
    )


def _encoding(body: SpeechBody, available: Collection[Encoding]) -> Encoding:
    if body.response_format is None:
        # A request that carries a model is OpenAI's, where mp3 is the default: Open WebUI and LibreChat rely on it.
        # Existing Echo clients name no model and expect a stream of pcm.
        if body.stream is True or (body.stream is None and body.model is None):
            return Encoding.PCM
        return Encoding.MP3 if Encoding.MP3 in available else Encoding.WAV
    return named_encoding(body.response_format, available)


def named_encoding(name: str, available: Collection[Encoding]) -> Encoding:
    """Return the encoding that a client calls so; raises BadRequest for one that is unknown or not available."""
    supported = [encoding for encoding in FORMATS if encoding in available]
    if name not in supported:
        names = ", ".join(supported)
        raise BadRequest(
            f"response_format: must be one of {names}.", param="response_format", code="unsupported_format"
        )
    return Encoding(name)


def _rate(body: SpeechBody, encoding: Encoding, pcm_sample_rate: int | None) -> int | None:
    if body.sample_rate is not None or encoding is not Encoding.PCM:
        return body.sample_rate
    if pcm_sample_rate is not None:
        return pcm_sample_rate
    model = body.model or ""
    openai = model in ("tts-1", "tts-1-hd") or model.startswith("gpt-4o-mini-tts")
    return _OPENAI_PCM_RATE if openai else None


def _streaming(body: SpeechBody, *, whole: bool, sse: bool) -> bool:
    # Existing Echo clients stream unless they say otherwise, a whole wav included: its blocks can stop early and be
    # drawn again one by one.
    if body.stream is not None:
        return body.stream or sse
    return not whole or body.model is None
