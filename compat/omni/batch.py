"""``POST /v1/audio/speech/batch``: several texts in one request, spoken at the same time."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections import deque
from copy import copy
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from compat.bodies import documented
from compat.omni.schemas import OmniBody
from compat.wire import late_failure
from echo.errors import BadRequest, Overloaded
from echo.limits import AnswerSize
from echo.runtime import Runtime
from echo.service import SpeechService
from echo.types import SpeechRequest
from routes.body import flattened
from routes.deps import RuntimeDep, client_of
from routes.errors import ERROR_RESPONSES, validated
from routes.json import read_json
from routes.response import until_disconnect
from routes.sse import usage

router = APIRouter(tags=["speech"], responses=ERROR_RESPONSES)

#: Most items of a batch (vLLM-Omni's limit).
MAX_ITEMS = 32
#: A batch has at most this part of the slots that one client may hold at a time.
_SHARE = 0.5


class BatchBody(OmniBody):
    """The items, and defaults for all of them; ``response_format`` is wav unless it is given."""

    items: list[dict[str, Any]] = Field(
        min_length=1, max_length=MAX_ITEMS, description="Objects with `input`, and any other field for this item only."
    )


@router.post("/v1/audio/speech/batch", openapi_extra=documented(BatchBody))
async def create_speech_batch(request: Request, runtime: RuntimeDep) -> Response:
    """Speak several texts; each comes back as base64 of a whole file, or with its error."""
    fields = flattened(await read_json(request))
    items = validated(BatchBody, {**fields, "input": ""}).items  # refuses wrong defaults for all at once
    defaults = {"response_format": "wav", **{name: value for name, value in fields.items() if value is not None}}
    batch = Batch(runtime, runtime.service, client_of(request))
    del defaults["items"], fields
    defaults.pop("input", None)
    results = await until_disconnect(request, batch.speak(defaults, items))
    failed = sum(result["status"] == "error" for result in results)
    answer = {
        "id": f"speech-batch-{uuid.uuid4().hex}",
        "results": results,
        "total": len(results),
        "succeeded": len(results) - failed,
        "failed": failed,
    }
    return Response(await asyncio.to_thread(_encoded, answer), media_type="application/json")


class Batch:
    """Speaks the items of one request, some at a time."""

    def __init__(self, runtime: Runtime, service: SpeechService, client: str) -> None:
        self._runtime = runtime
        self._service = service
        self._client = client
        self._size = AnswerSize(service.rules.limits)
        self._results: dict[int, dict[str, Any]] = {}
        self._pending: deque[tuple[int, SpeechService, SpeechRequest]] = deque()
        self._working = 0
        self._refusal: Overloaded | None = None

    async def speak(self, defaults: dict[str, Any], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a result or an error for each item, in order. Raises Overloaded if all were refused for now."""
        for index, item in enumerate(items):
            try:
                self._pending.append((index, *await self._request(defaults, item)))
            except Exception as error:
                self._fail(index, error)
        at_once = max(1, int(self._service.admission.client_limit * _SHARE))
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(at_once, len(self._pending))):
                self._working += 1
                workers.create_task(self._work())
        refusal = self._refusal
        if refusal is not None and all(result.get("code") == refusal.code for result in self._results.values()):
            raise refusal
        return [self._results[index] for index in range(len(items))]

    async def _request(self, defaults: dict[str, Any], item: dict[str, Any]) -> tuple[SpeechService, SpeechRequest]:
        own = {name: value for name, value in flattened(item).items() if value is not None}
        if (
            "voice" in own or "speaker" in own or "ref_audio" in own
        ):  # an item's voice replaces that of all, however given
            defaults = {
                name: value for name, value in defaults.items() if name not in ("voice", "speaker", "ref_audio")
            }
        body = OmniBody.parse({**defaults, **own})
        if not body.input.strip():
            raise BadRequest("input: must not be empty.", param="input", code="missing_required_parameter")
        service = self._runtime.services.of(body.model)
        return service, await body.to_request(self._runtime, self._client, whole=True)

    async def _work(self) -> None:
        """Speak pending items one after another."""
        try:
            while self._pending:
                index, service, speech = self._pending.popleft()
                try:
                    await self._speak_one(index, service, speech)
                except Overloaded as error:
                    if self._working > 1:  # others of this batch have a slot, in which they will speak this one, too
                        self._pending.appendleft((index, service, speech))
                        return
                    self._refusal = copy(error)
                    self._fail(index, error)
                except Exception as error:
                    self._fail(index, error)
        finally:
            self._working -= 1

    async def _speak_one(self, index: int, service: SpeechService, speech: SpeechRequest) -> None:
        stream, audio = await service.collect(speech, self._size)
        self._results[index] = {
            "index": index,
            "status": "success",
            "audio_data": (await asyncio.to_thread(base64.b64encode, audio)).decode(),
            "media_type": stream.output.media_type,
            "usage": usage(speech.text, stream),
        }

    def _fail(self, index: int, error: Exception) -> None:
        failure = late_failure(error, "an item of a batch").error
        self._results[index] = {"index": index, "status": "error", "error": failure.message, "code": failure.code}


def _encoded(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode()
