"""Messages on the socket: what a client sends, and what its session settles."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, StrictBool

from compat.omni.schemas import OmniBody
from compat.wire import decode
from echo.errors import BadRequest
from echo.runtime import Runtime
from echo.service import SpeechService
from echo.text import SpeakRules
from echo.types import Encoding, SpeechRequest

#: Messages up to this size are decoded at once: that takes less than changing to a thread and back.
_AT_ONCE = 16 * 1024
#: When text is spoken, by ``split_granularity``. Each passage is what clients call a sentence.
GRANULARITIES = {
    "none": SpeakRules(whole=True),
    "sentence": SpeakRules(sentences_from=0, single=True),
    "clause": SpeakRules(sentences_from=0, clauses_from=0, single=True),
}


class SessionConfig(OmniBody):
    """``session.config``: the fields of a speech request, and how text and audio are cut."""

    stream_audio: StrictBool | None = Field(None, description="Send the audio of a sentence as it is made.")
    split_granularity: Literal["none", "sentence", "clause"] | None = None
    word_timestamps: StrictBool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for the utterances of a connection from now on.

    service      of the engine that speaks
    request      without text
    rules        when text is spoken
    encoding     of the audio, as clients call it
    granularity  the name of the rules
    stream       audio as it is made instead of a file per sentence
    words        audio in JSON, with the times of words
    closes       SGLang-Omni's way: the connection ends with the utterance
    """

    service: SpeechService
    request: SpeechRequest
    rules: SpeakRules
    encoding: str
    granularity: str
    stream: bool
    words: bool
    closes: bool


async def parse_message(frame: str | bytes) -> dict[str, Any]:
    """Return a message, which has a ``type``; raises BadRequest."""
    message = decode(frame) if len(frame) <= _AT_ONCE else await asyncio.to_thread(decode, frame)
    if not isinstance(message, dict):
        raise BadRequest("A message must be a JSON object.", code="invalid_type")
    if not isinstance(message.get("type"), str):
        raise BadRequest("type: a string is required.", param="type")
    return message


async def settle(message: dict[str, Any], runtime: Runtime, client: str) -> Terms:
    """Return the terms of a ``session.config``; whatever cannot be used is refused here.

    Raises BadRequest naming the field, VoiceNotFound, TooLarge or NotReady.
    """
    nested = message.get("session")
    if nested is not None and not isinstance(nested, dict):
        raise BadRequest("session: must be an object.", param="session", code="invalid_type")
    config = SessionConfig.parse({**message, **(nested or {}), "input": ""})
    stream, words = bool(config.stream_audio), bool(config.word_timestamps)
    # SGLang-Omni's default is pcm, vLLM-Omni's is wav, with which it cannot stream.
    encoding = config.response_format or (Encoding.PCM if stream or nested is not None else Encoding.WAV)
    if stream and encoding != Encoding.PCM:
        raise BadRequest("stream_audio: needs the response_format pcm.", param="stream_audio")
    if words and not stream:
        raise BadRequest("word_timestamps: needs stream_audio and the response_format pcm.", param="word_timestamps")
    config = config.model_copy(update={"response_format": encoding})
    request = replace(await config.to_request(runtime, client, whole=False), times=words)
    service = runtime.services.of(config.model)
    service.plan(request)
    service.options(request)
    granularity = config.split_granularity or "sentence"
    return Terms(
        service=service,
        request=request,
        rules=GRANULARITIES[granularity],
        encoding=encoding,
        granularity=granularity,
        stream=stream,
        words=words,
        closes=nested is not None,
    )
