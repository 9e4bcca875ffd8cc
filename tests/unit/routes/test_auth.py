import base64

import pytest
from starlette.types import Receive, Scope, Send

from echo.errors import Unauthorized
from routes.auth import Auth, offered

KEY = "correct-horse"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def passes(keys: list[str], path: str = "/v1/audio/speech", kind: str = "http", **headers: str) -> bool:
    passed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    try:
        await Auth(app, keys)({"type": kind, "path": path, "headers": raw}, None, None)  # type: ignore[arg-type]
    except Unauthorized:
        assert not passed
    return bool(passed)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Basic {b64(KEY)}"},
        {"authorization": f"Basic {b64('user:' + KEY)}"},
        {"authorization": f"Basic {b64(':' + KEY)}"},
        {"xi_api_key": KEY},
        {"api_key": KEY},
        {"authorization": "Bearer abc123", "api_key": KEY},
    ],
)
async def test_every_form_of_a_key_is_accepted(headers: dict[str, str]) -> None:
    assert await passes([KEY], **headers)
    assert await passes(["another", KEY], **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": KEY},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Digest {KEY}"},
        {"authorization": "Basic ***"},
        {"authorization": f"Basic {b64(KEY + ':')}"},
        {"authorization": f"Bearer {b64(KEY)}"},
        {"authorization": "Basic \xff"},
        {"api_key": ""},
        {"x_api_key_2": KEY},
    ],
)
async def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    assert not await passes([KEY], **headers)


async def test_without_configured_keys_dummies_are_ignored() -> None:
    assert await passes([], authorization="Bearer abc123")
    assert await passes([])


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
async def test_probes_need_no_key(path: str) -> None:
    assert await passes([KEY], path)


@pytest.mark.parametrize("path", ["/metrics", "/v1/voices", "/docs", "/health/x", "//"])
async def test_every_other_path_needs_one(path: str) -> None:
    assert not await passes([KEY], path)


async def test_sockets_need_a_key_too() -> None:
    assert not await passes([KEY], "/ws", "websocket")
    assert await passes([KEY], "/ws", "websocket", authorization=f"Bearer {KEY}")


def test_a_basic_password_may_hold_colons() -> None:
    assert b"a:b" in list(offered([(b"authorization", f"Basic {b64('user:a:b')}".encode())]))
