"""Failures to HTTP answers: one place decides status and headers, a *shape* per family of paths writes the body.

Routes simply ``raise`` any :class:`echo.errors.EchoError`. Also shaped: framework validation errors (as BadRequest with
``code`` and ``param``), 404 and 405 below the prefix, refused keys, bodies that are too large, and uncaught exceptions
(logged once; the client gets a generic 500). A shape may answer with another status than ``failure.status``, by the
error's class or code. It must pass ``failure.headers`` on: Retry-After, Allow, x-should-retry and WWW-Authenticate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from echo.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    EchoError,
    EngineFailed,
    FeatureDisabled,
    Forbidden,
    LoadError,
    NotFound,
    NotReady,
    Overloaded,
    TimedOut,
    TooLarge,
    Unauthorized,
    VoiceNotFound,
    VoiceUnavailable,
)
from routes.paths import longest_prefix

Model = TypeVar("Model", bound=BaseModel)

log = logging.getLogger(__name__)

#: An unknown voice is 400: OpenAI answers so, and pipecat handles no other class of the SDK's errors.
_STATUS: Sequence[tuple[type[EchoError], int]] = (
    (BadRequest, 400),
    (VoiceNotFound, 400),
    (Unauthorized, 401),
    (FeatureDisabled, 403),
    (Forbidden, 403),
    (NotFound, 404),
    (TimedOut, 408),
    (Conflict, 409),
    (TooLarge, 413),
    (Overloaded, 429),
    (NotReady, 503),
    (VoiceUnavailable, 503),
)
#: The code of a failure that clients are told nothing about.
_HIDDEN = "internal_error"
#: Seconds that a refused client is told to wait when the failure itself does not say.
_DEFAULT_RETRY_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a shape turns into a response: the status of the ``/v1`` table, an error that is safe to show, headers."""

    status: int
    error: EchoError
    headers: Mapping[str, str] = field(default_factory=dict)


ErrorShape = Callable[[Failure], Response]
"""Writes the body of a failure in one wire format."""


class ErrorInfo(BaseModel):
    """What went wrong, in OpenAI's words; for the API's description."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every failed ``/v1`` request."""

    error: ErrorInfo


#: For the API's description; a range, because FastAPI would otherwise announce its own 422, which is never sent.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request was refused.", "model": ErrorBody},
    "5XX": {"description": "The server failed, is loading or is shutting down.", "model": ErrorBody},
}


def openai_shape(failure: Failure) -> Response:
    """Write OpenAI's error object; all four keys are always there."""
    return JSONResponse(ErrorBody(error=error_info(failure)).model_dump(), failure.status, headers=failure.headers)


def error_info(failure: Failure) -> ErrorInfo:
    """Describe a failure in OpenAI's words."""
    kind = {403: "permission_error", 429: "rate_limit_error"}.get(failure.status, "invalid_request_error")
    if failure.status >= 500:
        kind = "server_error"
    error = failure.error
    return ErrorInfo(message=error.message, type=kind, param=error.param, code=error.code)


class ErrorShapes:
    """The error shape of every path, by prefix: the longest wins, everything else speaks OpenAI's.

    ``count`` is called with status and code of every answer.
    """

    def __init__(
        self,
        shapes: Mapping[str, ErrorShape] | None = None,
        count: Callable[[int, str], None] = lambda status, reason: None,
    ) -> None:
        self._shapes = shapes or {}
        self._count = count

    def find(self, path: str) -> ErrorShape:
        """Return the shape in charge of a path."""
        return longest_prefix(path, self._shapes, openai_shape)

    def respond(self, path: str, error: Exception) -> Response:
        """Answer any exception; one that no client may be told about becomes a generic 500."""
        failure = describe(error)
        response = self.find(path)(failure)
        self._count(response.status_code, failure.error.code or "none")
        return response

    async def handle(self, request: Request, error: Exception) -> Response:
        """Answer what the framework raises; registered in place of its own handlers."""
        return self.respond(request.scope["path"], error)


def validated(model: type[Model], data: object) -> Model:
    """Return decoded JSON as a ``model``; raises BadRequest naming the first field that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None


class ErrorBoundary:
    """ASGI middleware that turns every exception into a response in the path's shape.

    After the response has started nothing can be said any more: the response is left unfinished, and the server
    breaks the connection, so that the client does not take a part for the whole.
    """

    def __init__(self, app: ASGIApp, shapes: ErrorShapes) -> None:
        self._app = app
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and answer what it raises."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except (ClientDisconnect, WebSocketDisconnect):
            return  # nobody is left to answer
        except asyncio.CancelledError:
            # Only the server cancels here, when streams outlast the grace of its shutdown, and it would log a trace.
            log.warning("%s was cut off by the shutdown", scope["path"])
            if scope["type"] == "http" and not started:
                closing = NotReady("The server is shutting down.", retry_after_s=5)
                await self._shapes.respond(scope["path"], closing)(scope, receive, send)
        except Exception as error:
            if describe(error).error.code == _HIDDEN:
                log.exception("%s failed", scope["path"])
            if scope["type"] == "websocket":
                await _refuse_socket(scope, receive, send, self._shapes.respond(scope["path"], error), started)
            elif not started:
                await self._shapes.respond(scope["path"], error)(scope, receive, send)


def describe(error: Exception) -> Failure:
    """Turn any exception into what a client may know of it."""
    if isinstance(error, HTTPException) and isinstance(error.__cause__, EchoError):
        error = error.__cause__  # FastAPI wraps what was raised while it read the body
    if isinstance(error, HTTPException):
        return _from_framework(error)
    if isinstance(error, RequestValidationError):
        error = validation_error(error.errors(), skip=1)
    elif isinstance(error, ValidationError):
        error = validation_error(error.errors())
    status = next((s for kind, s in _STATUS if isinstance(error, kind)), 500)
    if not isinstance(error, EchoError) or isinstance(error, LoadError | ConfigError):  # these two are the operator's
        hidden = "The server failed. Its log has the details under the id in X-Request-Id."
        error = EngineFailed(hidden, code=_HIDDEN)
    return Failure(status=status, error=error, headers=_headers(status, error))


def validation_error(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> BadRequest:
    """Turn pydantic's error list into one BadRequest about the first wrong field.

    ``skip`` is the number of leading location parts that are not the client's (FastAPI puts "body" or "query" first).
    """
    first = errors[0]
    place = first["loc"][skip:]
    if first["type"] == "json_invalid":
        return BadRequest("The body is not valid JSON.", code="invalid_json")
    if not place:
        return _about_the_body(first)
    param = str(place[0])
    # The alternatives of a union each report: what has the right type but a wrong value says most.
    same = [e for e in errors if e["loc"][: skip + 1] == first["loc"][: skip + 1]]
    wrong_value = next((e for e in same if _code(e["type"]) != "invalid_type"), None)
    if wrong_value is None:
        message = " or ".join(dict.fromkeys(_text(e) for e in same))
        return BadRequest(f"{param}: {message}.", param=param, code="invalid_type")
    return BadRequest(
        f"{param}: {_text(wrong_value).removeprefix(param + ': ')}.", param=param, code=_code(wrong_value["type"])
    )


def _about_the_body(error: Mapping[str, Any]) -> BadRequest:
    if _code(error["type"]) != "invalid_value":
        return BadRequest("The body must be a JSON object.", code=_code(error["type"]))
    # A rule over several fields: its message starts with the name of the one to blame.
    message = _text(error)
    name, colon, _ = message.partition(":")
    return BadRequest(f"{message}.", param=name if colon else None)


def _text(error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return "this field is required"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _code(kind: str) -> str:
    if kind == "missing":
        return "missing_required_parameter"
    if kind == "string_too_long":
        return "string_above_max_length"
    return "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"


def _from_framework(error: HTTPException) -> Failure:
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return Failure(status=404, error=EchoError("There is nothing at this path."), headers=headers)
    if error.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", ""))
        return Failure(status=405, error=EchoError(f"Method not allowed. Allowed: {allowed}."), headers=headers)
    if error.status_code == 413:
        return Failure(status=413, error=TooLarge("The body is too large."), headers=headers)
    code = "invalid_value" if error.status_code == 400 else None
    return Failure(status=error.status_code, error=EchoError(str(error.detail), code=code), headers=headers)


def _headers(status: int, error: EchoError) -> dict[str, str]:
    match status:
        case 408 | 413:
            return {"Connection": "close"}  # the rest of the body is not read
        case 401:
            return {"WWW-Authenticate": "Bearer"}
        case 429 | 503:
            return {"Retry-After": str(max(1, math.ceil(error.retry_after_s or _DEFAULT_RETRY_S)))}
        case 500 if error.retry_after_s is None:
            # OpenAI's SDKs repeat every 5xx twice: one bad request would cost three generations.
            return {"x-should-retry": "false"}
        case 500:
            return {"Retry-After": str(max(1, math.ceil(error.retry_after_s or 0)))}
    return {}


async def _refuse_socket(scope: Scope, receive: Receive, send: Send, response: Response, started: bool) -> None:
    if not started and "websocket.http.response" in scope.get("extensions", {}):
        await response(scope, receive, send)
        return
    # 1011 = internal error, 1008 = policy violation (RFC 6455, 7.4.1)
    with contextlib.suppress(RuntimeError):  # the socket may have been closed by either end
        await send({"type": "websocket.close", "code": 1011 if started else 1008})
