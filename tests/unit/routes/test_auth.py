import base64
from collections.abc import Sequence

import pytest
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from echo.errors import Overloaded, Unauthorized
from echo.quota import Quotas
from echo.settings import Settings
from routes import client
from routes.auth import Auth, needs_key, offered, present
from routes.keys import open_keys
from routes.scopes import ScopeRules

KEY = "correct-horse"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def auth(app: ASGIApp, *keys: str, max_failures: int = 0, late: Sequence[str] = ()) -> Auth:
    """The check for keys of ``ECHO_API_KEYS``."""
    given = {"api_keys": keys} if keys else {}
    ring = open_keys(Settings(**given, max_failed_keys=max_failures), Quotas())
    return Auth(app, ring, ScopeRules({}, ()), late)


async def passes(keys: list[str], path: str = "/v1/audio/speech", kind: str = "http", **headers: str) -> bool:
    passed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    try:
        request = {"type": kind, "method": "POST", "path": path, "headers": raw}
        await auth(app, *keys)(request, None, None)  # type: ignore[arg-type]
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


async def let_in(check: Auth, path: str = "/late/x", kind: str = "websocket", **headers: str) -> Scope:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {"type": kind, "method": "POST", "path": path, "headers": raw, "client": ("192.0.2.1", 1)}
    await check(scope, None, None)  # type: ignore[arg-type]
    return scope


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def test_a_socket_may_bring_its_key_later_where_its_route_says_so() -> None:
    check = auth(nothing, KEY, late=["/late"])
    for path, kind in [("/later", "websocket"), ("/late/x", "http")]:
        with pytest.raises(Unauthorized):
            await let_in(check, path, kind)
    with pytest.raises(Unauthorized):
        await let_in(check, authorization="Bearer wrong")
    for spelled in (KEY, f"Bearer {KEY}", f"Basic {b64(KEY)}"):
        scope = await let_in(check)
        socket = HTTPConnection(scope)
        assert needs_key(socket)
        with pytest.raises(Unauthorized):
            present(socket, "wrong")
        with pytest.raises(Unauthorized):
            present(socket)
        assert needs_key(socket)
        present(socket, spelled)
        assert not needs_key(socket)
        assert client.of(scope).startswith("key ")
    named = HTTPConnection(await let_in(check, authorization=f"Bearer {KEY}"))
    assert not needs_key(named)
    present(named, "whatever")  # it is known already


async def test_late_keys_are_counted_like_others() -> None:
    check = auth(nothing, KEY, max_failures=2, late=["/late"])
    for refusal in (Unauthorized, Unauthorized, Overloaded):
        with pytest.raises(refusal):
            present(HTTPConnection(await let_in(check)), "wrong")


async def test_no_key_is_asked_for_later_where_none_is_configured() -> None:
    assert not needs_key(HTTPConnection(await let_in(auth(nothing, late=["/late"]))))


async def test_a_key_is_the_same_client_wherever_it_stands_in_the_list() -> None:
    """What a client has made belongs to it."""
    scopes = [await let_in(auth(nothing, *keys), authorization=f"Bearer {KEY}") for keys in ([KEY, "x"], ["x", KEY])]
    first, second = map(client.of, scopes)
    assert first == second
    assert [client.key_name(scope) for scope in scopes] == ["ECHO_API_KEYS#1", "ECHO_API_KEYS#2"]
