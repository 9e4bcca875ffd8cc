"""The playground: a page for browsers that speaks, plays and keeps what this server makes.

The page is plain HTML, CSS and ES modules in ``page/``, sent as they are, but for ``index.html``, which is
filled in.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from echo import __version__
from echo.options import EngineOptions
from echo.settings import Settings
from echo.types import SpeechOptions
from routes.surface import Surface

#: Everything below it is open to all, as the page itself is: it holds nothing but the page's own files.
PREFIX = "/playground"

_HERE = Path(__file__).parent
#: The nonce is for the style sheet that wavesurfer.js puts into its own shadow tree; ``blob:`` is for audio that the
#: page itself has put together.
_POLICY = (
    "default-src 'self'; style-src 'self' 'nonce-{nonce}'; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
#: Options that are one value; a list is left to the API.
_SCALARS = ("number", "integer", "boolean", "string")
#: A bound as JSON schema calls it, and as the page does.
_BOUNDS = {"minimum": "minimum", "maximum": "maximum", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}


def surface() -> Surface:
    """Return the route of the page's files; the page itself is what ``/`` answers a browser."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(directory=_HERE / "page")

    @router.get(PREFIX + "/{path:path}")
    async def file(path: str, request: Request) -> Response:
        response = await files.get_response(path, request.scope)
        # Asked again each time, and answered 304 as long as it is the same: a new version is there at once.
        response.headers.update({**_HEADERS, "Cache-Control": "no-cache"})
        return response

    return Surface(router=router)


def wants_page(request: Request) -> bool:
    """Whether a client names HTML among what it accepts, as browsers do; probes and libraries send ``*/*`` or JSON."""
    accepted = request.headers.get("accept", "").lower()
    return "text/html" in (part.partition(";")[0].strip() for part in accepted.split(","))


def page(settings: Settings) -> Response:
    """Return the page, with what it has to know of this server before it may ask it."""
    nonce = secrets.token_urlsafe(16)
    html = (_HERE / "index.html").read_text(encoding="utf-8")
    html = html.replace("{{config}}", escape(json.dumps(_config(settings)))).replace("{{nonce}}", nonce)
    return HTMLResponse(
        html,
        headers={
            **_HEADERS,
            "Content-Security-Policy": _POLICY.format(nonce=nonce),
            "Cache-Control": "no-store",  # each has its own nonce
            "Vary": "Accept",
        },
    )


def _config(settings: Settings) -> dict[str, Any]:
    return {
        "version": __version__,
        "key": bool(settings.api_keys or settings.keys_file),
        # Uploads go through the route of OpenAI's SDK and vLLM-Omni, which asks for a consent.
        "cloning": settings.inworld_clone_enabled and settings.omni_compat,
        "max_chars": settings.max_input_chars,
        "options": _options(),
    }


def _options() -> list[dict[str, Any]]:
    """The engine options that are one value, with their bounds, from the schema that requests are checked with."""
    effective = {option.name for option in fields(SpeechOptions)}
    found = []
    for name, field in EngineOptions.model_json_schema()["properties"].items():
        kind = next((kind for kind in field["anyOf"] if kind["type"] in _SCALARS and "const" not in kind), None)
        if kind is not None and name in effective:
            bounds = {ours: kind[theirs] for theirs, ours in _BOUNDS.items() if theirs in kind}
            found.append({"name": name, "type": kind["type"], "description": field["description"], **bounds})
    return found
