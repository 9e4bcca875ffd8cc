import json
import logging
from typing import Annotated, Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StrictInt, ValidationError, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from echo import errors
from echo.errors import BadRequest
from routes.errors import ErrorBoundary, ErrorShapes, Failure, describe, openai_shape, validation_error


def body(response: Response) -> Any:
    return json.loads(bytes(response.body))


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (errors.BadRequest("m"), 400, "invalid_request_error", "invalid_value"),
        (errors.BadRequest("m", code="invalid_json"), 400, "invalid_request_error", "invalid_json"),
        (errors.VoiceNotFound("x"), 400, "invalid_request_error", "voice_not_found"),
        (errors.Unauthorized("m"), 401, "invalid_request_error", "invalid_api_key"),
        (errors.FeatureDisabled("m"), 403, "permission_error", "feature_disabled"),
        (errors.Forbidden("m"), 403, "permission_error", "forbidden"),
        (errors.NotFound("m", code="model_not_found"), 404, "invalid_request_error", "model_not_found"),
        (HTTPException(404), 404, "invalid_request_error", None),
        (HTTPException(405, headers={"Allow": "POST"}), 405, "invalid_request_error", None),
        (errors.TooLarge("m"), 413, "invalid_request_error", "request_too_large"),
        (HTTPException(413), 413, "invalid_request_error", "request_too_large"),
        (errors.Overloaded("m", retry_after_s=1), 429, "rate_limit_error", "queue_full"),
        (errors.EngineFailed("m"), 500, "server_error", "generation_failed"),
        (errors.NotReady("m"), 503, "server_error", "model_not_ready"),
        (ValueError("secret /path"), 500, "server_error", "internal_error"),
        (errors.LoadError("weights at /path"), 500, "server_error", "internal_error"),
    ],
)
def test_every_failure_has_its_status_type_and_code(error: Exception, status: int, kind: str, code: str | None) -> None:
    response = ErrorShapes().respond("/v1/audio/speech", error)
    assert response.status_code == status
    told = body(response)["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert (told["type"], told["code"]) == (kind, code)
    assert "/path" not in told["message"]
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("hint", "header"), [(0.2, "1"), (1.0, "1"), (1.2, "2"), (None, "5")])
def test_a_refused_client_is_told_when_to_come_back_in_whole_seconds(hint: float | None, header: str) -> None:
    for kind in (errors.Overloaded, errors.NotReady):
        assert describe(kind("busy", retry_after_s=hint)).headers["Retry-After"] == header


def test_a_failure_that_would_repeat_itself_tells_sdks_not_to_retry() -> None:
    assert describe(errors.EngineFailed("m")).headers == {"x-should-retry": "false"}
    assert describe(errors.EngineFailed("m", retry_after_s=3)).headers == {"Retry-After": "3"}
    assert describe(ValueError()).headers == {"x-should-retry": "false"}


def test_a_wrong_method_keeps_its_allow_header() -> None:
    assert describe(HTTPException(405, headers={"Allow": "POST"})).headers == {"Allow": "POST"}


def test_what_was_raised_while_the_framework_read_the_body_is_unwrapped() -> None:
    wrapped = HTTPException(400, "There was an error parsing the body")
    wrapped.__cause__ = errors.TooLarge("too large")
    assert describe(wrapped).status == 413


def test_the_longest_prefix_decides_the_shape_and_prefixes_end_at_a_slash() -> None:
    def shape(name: str) -> Any:
        return lambda failure: JSONResponse({name: failure.error.message}, failure.status, headers=failure.headers)

    shapes = ErrorShapes({"/tts/v1": shape("a"), "/tts/v1/deep": shape("b"), "/tts_stream": shape("c")})
    error = BadRequest("m")
    answers = {
        path: next(iter(body(shapes.respond(path, error))))
        for path in ("/tts/v1", "/tts/v1/voice:stream", "/tts/v1/deep/er", "/tts/v10", "/tts", "/tts_stream/", "/v1/x")
    }
    assert list(answers.values()) == ["a", "a", "b", "error", "error", "c", "error"]


class Model(BaseModel):
    size: StrictInt
    steps: StrictInt | list[StrictInt] | None = None
    count: Annotated[StrictInt, Field(ge=1, le=10)] | list[Annotated[StrictInt, Field(ge=1)]] | None = None
    name: Annotated[str, Field(max_length=3)] | None = None

    @model_validator(mode="after")
    def _rule(self) -> "Model":
        if self.size == 99:
            raise ValueError("size: must not be 99")
        return self


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        ({}, "size", "missing_required_parameter", "size: this field is required."),
        ({"size": "1"}, "size", "invalid_type", "size: input should be a valid integer."),
        ({"size": True}, "size", "invalid_type", "size: input should be a valid integer."),
        (
            {"size": 1, "steps": "x"},
            "steps",
            "invalid_type",
            "steps: input should be a valid integer or input should be a valid list.",
        ),
        ({"size": 1, "count": 11}, "count", "invalid_value", "count: input should be less than or equal to 10."),
        ({"size": 1, "count": [0]}, "count", "invalid_value", "count: input should be greater than or equal to 1."),
        ({"size": 1, "name": "four"}, "name", "string_above_max_length", None),
        ({"size": 99}, "size", "invalid_value", "size: must not be 99."),
    ],
)
def test_a_wrong_field_is_named_with_what_is_wrong(
    fields: dict[str, object], param: str, code: str, message: str | None
) -> None:
    with pytest.raises(ValidationError) as invalid:
        Model.model_validate(fields)
    error = validation_error(invalid.value.errors())
    assert (error.param, error.code) == (param, code)
    assert message is None or error.message == message
    in_body = [{**e, "loc": ("body", *e["loc"])} for e in invalid.value.errors()]
    assert describe(RequestValidationError(in_body)).error.message == error.message


def test_a_body_the_framework_could_not_read_is_a_bad_request() -> None:
    broken = {"type": "json_invalid", "loc": ("body", 3), "msg": "JSON decode error", "ctx": {"error": "x"}}
    missing = {"type": "missing", "loc": ("body",), "msg": "Field required"}
    listed = {"type": "model_attributes_type", "loc": ("body",), "msg": "Input should be a valid dictionary"}
    told = [describe(RequestValidationError([error])).error for error in (broken, missing, listed)]
    assert [error.code for error in told] == ["invalid_json", "missing_required_parameter", "invalid_type"]
    assert all(error.param is None for error in told)


async def answered(app: Any, kind: str = "http", extensions: dict[str, object] | None = None) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": kind, "path": "/v1/x", "headers": [], "extensions": extensions or {}}
    await ErrorBoundary(app, ErrorShapes())(scope, receive, send)
    return sent


def failing(error: Exception, after: Message | None = None) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after is not None:
            await send(after)
        raise error

    return app


async def test_an_uncaught_exception_is_logged_once_and_answered_generically(caplog: pytest.LogCaptureFixture) -> None:
    sent = await answered(failing(ValueError("secret")))
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "secret" in caplog.text


async def test_an_expected_failure_is_not_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    for error, status in ((BadRequest("m"), 400), (errors.EngineFailed("m"), 500), (HTTPException(404), 404)):
        assert (await answered(failing(error)))[0]["status"] == status
    assert not caplog.records


async def test_a_failure_meant_for_the_operator_reaches_only_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sent = await answered(failing(errors.LoadError("weights are missing")))
    assert b"weights" not in sent[1]["body"]
    assert "weights are missing" in caplog.text


async def test_after_the_response_has_started_nothing_is_added_to_it() -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}
    assert await answered(failing(BadRequest("m"), start)) == [start]


async def test_nobody_is_answered_when_the_client_has_left(caplog: pytest.LogCaptureFixture) -> None:
    assert await answered(failing(ClientDisconnect())) == []
    assert await answered(failing(WebSocketDisconnect()), "websocket") == []
    assert not caplog.records


async def test_a_socket_is_refused_with_a_status_where_the_server_can() -> None:
    refused = failing(errors.Unauthorized("no key"))
    sent = await answered(refused, "websocket", {"websocket.http.response": {}})
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 401)
    assert await answered(refused, "websocket") == [{"type": "websocket.close", "code": 1008}]
    accepted: Message = {"type": "websocket.accept"}
    assert (await answered(failing(ValueError(), accepted), "websocket"))[1:] == [
        {"type": "websocket.close", "code": 1011}
    ]


def test_a_shape_may_choose_another_status() -> None:
    def shape(failure: Failure) -> Response:
        status = 404 if isinstance(failure.error, errors.VoiceNotFound) else failure.status
        return JSONResponse({"detail": failure.error.message}, status)

    assert ErrorShapes({"/x": shape}).respond("/x", errors.VoiceNotFound("v")).status_code == 404
    assert openai_shape(describe(errors.VoiceNotFound("v"))).status_code == 400
