"""What a key has left of its limits, in the headers that OpenAI's clients read."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo.quota import Quotas
from routes import client

_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RateLimitHeaders:
    """Adds ``x-ratelimit-limit-requests`` and its kin to every answer to a client that has limits."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self._app = app
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def told(message: Message) -> None:
            if message["type"] in _STARTS:
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                for name, value in rate_limit_headers(self._quotas, client.of(scope)).items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, told if scope["type"] in ("http", "websocket") else send)


def rate_limit_headers(quotas: Quotas, name: str) -> dict[str, str]:
    """Return the headers about a client's limits, none where it has none."""
    headers = {}
    for what, standing in quotas.standing(name).items():
        headers[f"x-ratelimit-limit-{what}"] = str(standing.limit)
        headers[f"x-ratelimit-remaining-{what}"] = str(standing.remaining)
        if standing.reset_s is not None:
            headers[f"x-ratelimit-reset-{what}"] = duration(standing.reset_s)
    return headers


def duration(seconds: float) -> str:
    """Write a time as OpenAI does: ``6m0s``, ``1.5s``, ``20ms``."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    written = f"{rest / 1000:g}s"
    return f"{minutes}m{written}" if minutes else written
