"""``POST /dev/captioned_speech``: OpenAI's body in, base64 audio with the times of its words out."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from fastapi import APIRouter
from pydantic import Field, StrictBool, StrictStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import override

from compat.bodies import AudioLines, documented
from echo.audio.encode import supported_encodings
from echo.service import SpeechStream
from echo.text.times import Timed
from routes.body import SpeechBody, flattened
from routes.deps import RuntimeDep, client_of
from routes.errors import ERROR_RESPONSES, validated
from routes.format import resolve_output
from routes.json import read_json
from routes.response import ByteStream, answer_streamed, answer_whole
from routes.speech import to_request
from routes.words import NewWords

PATH = "/dev/captioned_speech"

router = APIRouter(tags=["Kokoro"], responses=ERROR_RESPONSES)


class CaptionedBody(SpeechBody):
    """OpenAI's fields; ``lang_code``, ``download_format`` and the like change nothing."""

    response_format: StrictStr | None = Field("mp3", description="mp3, opus, aac, flac, wav or pcm.")
    stream: StrictBool | None = Field(True, description="Audio as it is made, a JSON object per line.")
    return_timestamps: StrictBool | None = Field(True, description="Say when each word is spoken.")


@router.post(PATH, openapi_extra=documented(CaptionedBody))
async def create_captioned_speech(request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; audio comes back as base64, with the times of its words in seconds."""
    body = _parse(await read_json(request))
    plan = resolve_output(
        body,
        pcm_sample_rate=runtime.settings.pcm_sample_rate,
        wav_streaming=False,
        available=supported_encodings(),
    )
    speech = to_request(body, plan, client_of(request))
    service = runtime.services.of(body.model)
    if plan.whole:
        return await answer_whole(request, service, speech, render=_object)
    return await answer_streamed(request, service, speech, media_type="application/json", envelope=CaptionedLines)


class CaptionedLines(ByteStream):
    """A speech stream as lines of JSON, each with audio and the words that have become known with it.

    Where the speech fails, the answer breaks off: the form has no place for an error.
    """

    def __init__(self, stream: SpeechStream) -> None:
        self._stream = stream

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        audio, words = AudioLines(), NewWords(self._stream)
        async for data in self._stream:
            for piece in audio.add(data):
                yield self._line(piece, words.take())
        if known := words.take():
            yield self._line(b"", known)

    @override
    def close(self) -> None:
        self._stream.close()

    def _line(self, audio: bytes, words: list[Timed]) -> bytes:
        return json.dumps(_told(self._stream, audio, words)).encode() + b"\n"


def _parse(data: object) -> CaptionedBody:
    """Validate decoded JSON, where null is the same as absent; raises BadRequest naming the field."""
    fields = {name: value for name, value in flattened(data).items() if value is not None}
    body = validated(CaptionedBody, fields)
    # Lines carry the audio as events do: no length of a file is known, and a wav is progressive.
    lines = "sse" if body.stream else "audio"
    return body.model_copy(update={"stream_format": lines, "word_timestamps": body.return_timestamps})


def _object(stream: SpeechStream, audio: bytes) -> Response:
    return JSONResponse(_told(stream, audio, NewWords(stream).take()))


def _told(stream: SpeechStream, audio: bytes, words: Iterable[Timed]) -> dict[str, Any]:
    return {
        "audio": base64.b64encode(audio).decode("ascii"),
        "audio_format": stream.output.media_type,
        "timestamps": [{"word": word.text, "start_time": word.start_s, "end_time": word.end_s} for word in words],
        **({} if stream.times is None else {"timestamps_method": stream.times.method.value}),
    }
