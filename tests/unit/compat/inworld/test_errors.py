"""Failures as google.rpc.Status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compat.inworld.errors import Exhausted, UnknownContext, late_status, rpc_shape
from echo import errors
from echo.errors import BadRequest
from routes.errors import describe


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.BadRequest("m"), 400, 3),
        (errors.VoiceNotFound("x"), 404, 5),
        (errors.NotFound("m"), 404, 5),
        (errors.Unauthorized("m"), 401, 16),
        (errors.FeatureDisabled("m"), 403, 7),
        (errors.Forbidden("m"), 403, 7),
        (errors.TooLarge("m"), 413, 3),
        (errors.Overloaded("m", retry_after_s=3), 429, 8),
        (errors.EngineFailed("m"), 500, 13),
        (errors.NotReady("m"), 503, 14),
        (ValueError("secret /path"), 500, 13),
    ],
)
def test_every_failure_has_its_status_and_code(error: Exception, status: int, code: int) -> None:
    response = rpc_shape(describe(error))
    body: dict[str, Any] = json.loads(bytes(response.body))
    assert response.status_code == status
    assert sorted(body) == ["code", "details", "message"]
    assert body["code"] == code
    assert body["details"] == []
    assert "secret" not in body["message"]


def test_a_busy_server_says_when_to_come_back() -> None:
    response = rpc_shape(describe(errors.Overloaded("m", retry_after_s=3)))
    assert response.headers["Retry-After"] == "3"


def test_fields_go_by_the_names_that_the_client_sent() -> None:
    status = late_status(BadRequest("input: holds nothing.", param="input"), "test")
    assert status == {"code": 3, "message": "text: holds nothing.", "details": []}


def test_an_unknown_context_reads_not_found_and_has_code_5() -> None:
    status = late_status(UnknownContext("Context 'c' not found."), "test")
    assert status == {"code": 5, "message": "Context 'c' not found.", "details": []}


def test_a_full_socket_has_code_8() -> None:
    assert late_status(Exhausted("m"), "test")["code"] == 8
