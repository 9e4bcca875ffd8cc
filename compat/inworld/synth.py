"""``POST /tts/v1/voice`` and ``/tts/v1/voice:stream``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import override

from compat.bodies import documented
from compat.inworld.errors import RPC_RESPONSES, late_status
from compat.inworld.payload import payloads, whole
from compat.inworld.schemas import SynthesizeBody
from echo.errors import BadRequest
from echo.runtime import Runtime
from echo.service import SpeechStream
from routes.deps import RuntimeDep, client_of
from routes.json import read_json
from routes.response import ByteStream, answer_streamed, answer_whole

router = APIRouter(tags=["Inworld"], responses=RPC_RESPONSES)


@router.post("/tts/v1/voice", openapi_extra=documented(SynthesizeBody))
async def synthesize(request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; the whole file comes back as base64 in JSON."""
    body = await _body(request, runtime)
    # The streaming block shape although nothing is streamed: games send short lines, whose blocks can stop early.
    speech = body.to_request(body.text, body.audio_config.whole(), streaming=True, client=client_of(request))

    def render(stream: SpeechStream, audio: bytes) -> Response:
        return JSONResponse(whole(stream, audio, body, body.text))

    return await answer_whole(request, runtime.services.of(body.model_id), speech, render=render)


@router.post("/tts/v1/voice:stream", openapi_extra=documented(SynthesizeBody))
async def synthesize_stream(request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; base64 audio comes back as it is made, one JSON object per line."""
    body = await _body(request, runtime)
    speech = body.to_request(body.text, body.audio_config.streamed(), streaming=True, client=client_of(request))
    lines = partial(Lines, body=body)
    return await answer_streamed(
        request, runtime.services.of(body.model_id), speech, media_type="application/json", envelope=lines
    )


class Lines(ByteStream):
    """A speech stream as newline-delimited JSON; a late failure becomes a last line with an ``error`` key."""

    def __init__(self, stream: SpeechStream, body: SynthesizeBody) -> None:
        self._stream = stream
        self._body = body

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for payload in payloads(self._stream, self._body, self._body.text):
                yield _line({"result": payload})
        except Exception as error:
            yield _line({"error": late_status(error, "Inworld stream")})

    @override
    def close(self) -> None:
        self._stream.close()


async def _body(request: Request, runtime: Runtime) -> SynthesizeBody:
    body = SynthesizeBody.parse(await read_json(request))
    limit = runtime.settings.inworld_max_text_chars
    if not body.text.strip() or len(body.text) > limit:
        raise BadRequest(f"text: must have 1 to {limit} characters.", param="text")
    return body if body.model_id else body.model_copy(update={"model_id": runtime.service.engine.info.name})


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"
