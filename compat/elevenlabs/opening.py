"""The handshake of the sockets: query, key and voice; whatever is wrong before the upgrade has an HTTP status."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.websockets import WebSocket

from compat.elevenlabs.errors import POLICY_VIOLATION, error_message
from compat.elevenlabs.schemas import Key, SocketQuery
from compat.wire import close, decode, receive, send
from echo.errors import EchoError
from echo.runtime import Runtime
from echo.service import SpeechService
from echo.types import VoiceRef
from routes.auth import needs_key, present
from routes.deps import client_of

#: Seconds that a client without a key in the headers may take for its first message.
KEY_S = 10.0
#: Where the query may carry the key.
_QUERY_KEYS = ("xi-api-key", "xi_api_key", "authorization", "single_use_token")


@dataclass(frozen=True, slots=True)
class Opening:
    """An accepted socket: its query, whose model picks the service, and the first message if that has the key."""

    query: SocketQuery
    service: SpeechService
    first: str | bytes | None


async def accept(socket: WebSocket, runtime: Runtime, voice: str | None) -> Opening | None:
    """Let a client in; None if it left, or was refused after the upgrade.

    Raises BadRequest, VoiceNotFound, Unauthorized, Overloaded or NotReady before the upgrade. ``voice`` None: each
    turn names its own.
    """
    query = SocketQuery.parse(dict(socket.query_params))
    if keys := [key for name in _QUERY_KEYS if (key := socket.query_params.get(name))]:
        present(socket, *keys)
    service = runtime.services.of(query.model_id)
    _ = query.format  # refused now if it cannot be used
    late = needs_key(socket)
    if not late:  # a client without a key is not told which voices there are
        await check_voice(service, voice, client_of(socket))
    await socket.accept()
    if not late:
        return Opening(query, service, None)
    first = await receive(socket, KEY_S, lambda: False)
    if first is None:
        return None
    try:
        present(socket, *Key.parse(decode(first)).given)
        await check_voice(service, voice, client_of(socket))
    except EchoError as error:
        await send(socket, error_message(error))
        await close(socket, POLICY_VIOLATION)
        return None
    return Opening(query, service, first)


async def check_voice(service: SpeechService, voice: str | None, client: str) -> None:
    """Raise VoiceNotFound if there is no voice of this name."""
    if voice is not None:
        await service.resolve(VoiceRef(name=voice), client)
