"""Which scope the routes need; all of them."""

from __future__ import annotations

import re

import pytest

from api_server import create_app
from echo.settings import Settings
from routes.auth import Auth
from routes.scopes import KeyScope, ScopeRules

CLONING = {
    "POST /v1/audio/voices",
    "DELETE /v1/audio/voices/{voice}",
    "POST /voices/v1/voices:clone",
    "PATCH /voices/v1/voices/{voice}",
    "DELETE /voices/v1/voices/{voice}",
    "POST /voices/v1/workspaces/{workspace}/voices:clone",
    "PATCH /voices/v1/workspaces/{workspace}/voices/{voice}",
    "DELETE /voices/v1/workspaces/{workspace}/voices/{voice}",
    "POST /create_and_store_latents",
}
#: Which the description of the API does not list.
SOCKETS = (
    "/tts/v1/voice:streamBidirectional",
    "/v1/audio/speech/stream",
    "/v1/speak",
    "/v1/text-to-speech/{voice_id}/stream-input",
    "/v1/text-to-speech/{voice_id}/multi-stream-input",
    "/v1/text-to-dialogue/multi-stream-input",
    "/ws/synthesize",
    "/ws/synthesize-stream",
    "/ws/twilio",
    "/calls/{sid}/say",
)


@pytest.fixture(scope="module")
def needed() -> dict[str, frozenset[KeyScope]]:
    """By method and path of every route what a key needs."""
    app = create_app(Settings())
    (auth,) = [each for each in app.user_middleware if each.cls is Auth]
    rules = auth.kwargs["rules"]
    assert isinstance(rules, ScopeRules)
    found = {}

    asked = [
        *(("http", method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item),
        *(("websocket", "WEBSOCKET", path) for path in SOCKETS),
    ]
    for kind, method, path in asked:
        concrete = re.sub(r"{[^}]*}", "x", path)
        found[f"{method} {path}"] = rules.needed({"type": kind, "method": method, "path": concrete})
    return found


def test_only_what_changes_voices_needs_clone(needed: dict[str, frozenset[KeyScope]]) -> None:
    assert {route for route, scopes in needed.items() if scopes == {KeyScope.CLONE}} == CLONING


def test_only_admin_needs_admin_and_only_metrics_metrics(needed: dict[str, frozenset[KeyScope]]) -> None:
    assert {route for route, scopes in needed.items() if KeyScope.ADMIN in scopes} == {"POST /admin/drain"}
    assert {route for route, scopes in needed.items() if KeyScope.METRICS in scopes} == {"GET /metrics"}


def test_only_probes_need_nothing(needed: dict[str, frozenset[KeyScope]]) -> None:
    assert {route for route, scopes in needed.items() if not scopes} == {"GET /", "GET /health", "GET /ready"}


def test_lists_are_for_those_who_speak_or_clone_and_the_rest_speaks(needed: dict[str, frozenset[KeyScope]]) -> None:
    rest = {
        route: scopes
        for route, scopes in needed.items()
        if scopes and route not in CLONING and not scopes & {KeyScope.ADMIN, KeyScope.METRICS}
    }
    assert rest
    for route, scopes in rest.items():
        speaks = not route.startswith("GET ") or route == "GET /tts_stream"
        assert scopes == ({KeyScope.SPEAK} if speaks else {KeyScope.SPEAK, KeyScope.CLONE}), route
