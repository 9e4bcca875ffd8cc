"""``POST /v1/text-to-speech/{voice_id}``: a whole text over HTTP, whole or streamed, with or without times."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import override

from compat.bodies import AudioLines, documented
from compat.elevenlabs.alignment import in_seconds
from compat.elevenlabs.errors import DETAIL_RESPONSES
from compat.elevenlabs.formats import DEFAULT, FORMATS, OutputFormat, output_format
from compat.elevenlabs.schemas import DialogueBody, SpeakBody
from echo.audio.encode import supported_encodings
from echo.service import SpeechStream
from echo.types import SpeechRequest
from routes.deps import RuntimeDep, client_of
from routes.json import read_json
from routes.response import ByteStream, answer_streamed, answer_whole

router = APIRouter(tags=["ElevenLabs"], responses=DETAIL_RESPONSES)

#: Kept for the line that has the times; about 20 ms of 16-bit audio.
_HELD_BYTES = 2 * 1024
#: Of a line whose audio is ahead of the times.
_NO_TIMES: Mapping[str, object] = {"alignment": None, "normalized_alignment": None}

_IN_QUERY = {
    "name": "output_format",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": list(FORMATS), "default": DEFAULT},
}
_IN_BODY = documented(SpeakBody, _IN_QUERY)
_DIALOGUE_IN_BODY = documented(DialogueBody, _IN_QUERY)
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio.",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("audio/mpeg", "audio/pcm", "audio/opus", "audio/basic", "audio/pcma")
        },
    }
}


@router.post("/v1/text-to-speech/{voice_id}", response_class=Response, responses=_AUDIO, openapi_extra=_IN_BODY)
async def convert(voice_id: str, request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; the whole file comes back."""
    asked = await _asked(voice_id, request)
    file = partial(_file, media_type=asked.media_type)
    return await answer_whole(request, runtime.services.of(asked.model), asked.speech, render=file)


@router.post("/v1/text-to-speech/{voice_id}/stream", response_class=Response, responses=_AUDIO, openapi_extra=_IN_BODY)
async def stream(voice_id: str, request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; audio comes back as it is made."""
    asked = await _asked(voice_id, request)
    return await answer_streamed(request, runtime.services.of(asked.model), asked.speech, media_type=asked.media_type)


@router.post("/v1/text-to-speech/{voice_id}/with-timestamps", openapi_extra=_IN_BODY)
async def convert_with_timestamps(voice_id: str, request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; the whole file comes back as base64, with the time of every character."""
    asked = await _asked(voice_id, request, times=True)

    def render(stream: SpeechStream, audio: bytes) -> Response:
        return JSONResponse(_line(audio, _times(stream, asked.speech.text)))

    return await answer_whole(request, runtime.services.of(asked.model), asked.speech, render=render)


@router.post("/v1/text-to-speech/{voice_id}/stream/with-timestamps", openapi_extra=_IN_BODY)
async def stream_with_timestamps(voice_id: str, request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; base64 audio comes back as it is made, one JSON object per line, the last with the times."""
    asked = await _asked(voice_id, request, times=True)
    lines = partial(TimedLines, text=asked.speech.text)
    return await answer_streamed(
        request, runtime.services.of(asked.model), asked.speech, media_type="application/json", envelope=lines
    )


@router.post("/v1/text-to-dialogue", response_class=Response, responses=_AUDIO, openapi_extra=_DIALOGUE_IN_BODY)
async def dialogue(request: Request, runtime: RuntimeDep) -> Response:
    """Speak the lines of a dialogue, all in one voice; the whole file comes back."""
    asked = await _asked_dialogue(request)
    return await answer_whole(
        request, runtime.services.of(asked.model), asked.speech, render=partial(_file, media_type=asked.media_type)
    )


@router.post("/v1/text-to-dialogue/stream", response_class=Response, responses=_AUDIO, openapi_extra=_DIALOGUE_IN_BODY)
async def stream_dialogue(request: Request, runtime: RuntimeDep) -> Response:
    """Speak the lines of a dialogue, all in one voice; audio comes back as it is made."""
    asked = await _asked_dialogue(request)
    return await answer_streamed(request, runtime.services.of(asked.model), asked.speech, media_type=asked.media_type)


class TimedLines(ByteStream):
    """A speech stream as lines of JSON. The times need the final duration: they come with the last audio.

    Where the speech fails, the answer breaks off.
    """

    def __init__(self, stream: SpeechStream, text: str) -> None:
        self._stream = stream
        self._text = text

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        audio = AudioLines(held=_HELD_BYTES)
        async for data in self._stream:
            for piece in audio.add(data):
                yield _encoded(_line(piece))
        yield _encoded(_line(audio.end(), _times(self._stream, self._text)))

    @override
    def close(self) -> None:
        self._stream.close()


@dataclass(frozen=True, slots=True)
class _Asked:
    speech: SpeechRequest
    media_type: str
    model: str | None


def _format(request: Request) -> OutputFormat:
    return output_format(request.query_params.get("output_format", DEFAULT), supported_encodings())


async def _asked(voice_id: str, request: Request, *, times: bool = False) -> _Asked:
    format = _format(request)
    body = SpeakBody.parse(await read_json(request))
    speech = replace(body.to_request(voice_id, format.audio, client_of(request)), times=times)
    return _Asked(speech, format.media_type, body.model_id)


async def _asked_dialogue(request: Request) -> _Asked:
    format = _format(request)
    body = DialogueBody.parse(await read_json(request))
    return _Asked(body.to_request(format.audio, client_of(request)), format.media_type, body.model_id)


def _file(stream: SpeechStream, audio: bytes, media_type: str) -> Response:
    return Response(audio, media_type=media_type)


def _times(stream: SpeechStream, text: str) -> dict[str, object]:
    """Return the fields of a line that has the times of all of the text."""
    stats, spoken = stream.stats, stream.spoken(text)
    times = spoken if stream.times is not None and stream.times.words else None
    alignment = in_seconds(text, stream.output.duration_s, stats.speech_start_s, stats.speech_end_s, times)
    return {
        "alignment": alignment,
        "normalized_alignment": alignment,
        "timestamps_method": spoken.method.value,
    }


def _line(audio: bytes, times: Mapping[str, object] = _NO_TIMES) -> dict[str, object]:
    return {"audio_base64": base64.b64encode(audio).decode("ascii"), **times}


def _encoded(line: dict[str, object]) -> bytes:
    return json.dumps(line).encode() + b"\n"
