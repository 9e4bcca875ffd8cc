"""``WS /tts/v1/voice:streamBidirectional``: text in, audio out, in up to five contexts per connection."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial

from fastapi import APIRouter
from starlette.websockets import WebSocket

from compat.inworld.context import Context
from compat.inworld.errors import Exhausted, UnknownContext, late_status
from compat.inworld.messages import Action, ContextConfig, ContextUpdate, Message, SendText
from compat.wire import decode, receive, send
from echo.errors import BadRequest
from echo.runtime import Runtime
from echo.types import VoiceRef
from routes.deps import RuntimeDep, client_of

#: Contexts that a connection may have open at once (Inworld's limit).
MAX_CONTEXTS = 5
#: Seconds without a message and without speech after which a connection is closed (Inworld's limit).
IDLE_S = 600.0

_OK = {"code": 0, "message": "", "details": []}


def socket_router(idle_s: float = IDLE_S) -> APIRouter:
    """Return the route of the socket."""
    router = APIRouter()

    @router.websocket("/tts/v1/voice:streamBidirectional")
    async def stream_bidirectional(socket: WebSocket, runtime: RuntimeDep) -> None:
        await socket.accept()
        await Session(socket, runtime, idle_s).serve()

    return router


class Session:
    """One connection. It reads messages and never waits for speech; the contexts' tasks do that."""

    def __init__(self, socket: WebSocket, runtime: Runtime, idle_s: float) -> None:
        self._socket = socket
        self._runtime = runtime
        self._idle_s = idle_s
        self._contexts: dict[str, Context] = {}

    async def serve(self) -> None:
        """Serve until the client disconnects or has been idle for too long, then stop all work."""
        try:
            while (frame := await receive(self._socket, self._idle_s, self._busy)) is not None:
                await self._handle(frame)
        finally:
            await asyncio.gather(*(context.cancel() for context in self._contexts.values()))
            self._contexts.clear()

    def _busy(self) -> bool:
        return any(context.busy for context in self._contexts.values())

    async def _handle(self, frame: str | bytes) -> None:
        """Do what a message asks for. An error is answered; the socket stays open."""
        context_id: str | None = None
        try:
            message = Message.parse(decode(frame))
            actions = message.actions()
            context_id = self._context_id(message)
            for action in actions:
                await self._act(action, message, context_id)
        except Exception as error:
            status = late_status(error, "Inworld socket")
            if context_id is None:
                await self._send({"error": status})
            else:
                await self._send({"result": {"contextId": context_id, "status": status}})

    def _context_id(self, message: Message) -> str | None:
        """Return the context a message is about; it need not be named where there is only one."""
        if message.context_id or message.create is not None:
            return message.context_id or None
        open_ones = self._open()
        return open_ones[0] if len(open_ones) == 1 else None

    def _open(self) -> list[str]:
        return [name for name, context in self._contexts.items() if not context.closing]

    async def _act(self, action: Action, message: Message, context_id: str | None) -> None:
        match action:
            case Action.CREATE:
                await self._create(context_id or uuid.uuid4().hex, ContextConfig.parse(message.create))
            case Action.UPDATE:
                context = self._find(context_id)
                config = context.config.updated(ContextUpdate.parse(message.update_config))
                await self._check_voice(config)
                context.update(config)
            case Action.TEXT:
                self._append(context_id, SendText.parse(message.send_text))
            case Action.FLUSH:
                self._find(context_id).flush()
            case Action.CLOSE:
                self._find(context_id).close()
            case Action.CANCEL:
                await self._cancel(context_id)

    async def _create(self, context_id: str, config: ContextConfig) -> None:
        if context_id in self._contexts:
            raise BadRequest(f"contextId: '{context_id}' is open already.")
        if len(self._contexts) >= MAX_CONTEXTS:
            raise Exhausted(f"{MAX_CONTEXTS} contexts are open; more are not allowed on one connection.")
        service = self._runtime.services.of(config.model_id)
        if not config.model_id:
            config = config.model_copy(update={"model_id": service.engine.info.name})
        await self._check_voice(config)

        def forget() -> None:
            self._contexts.pop(context_id, None)

        reply = partial(self._send_result, context_id)
        self._contexts[context_id] = Context(context_id, service, config, reply, forget, client_of(self._socket))
        await self._send_result(context_id, {"contextCreated": config.echoed()})

    async def _check_voice(self, config: ContextConfig) -> None:
        service = self._runtime.services.of(config.model_id)
        await service.resolve(VoiceRef(name=config.voice_id), client_of(self._socket))

    def _append(self, context_id: str | None, message: SendText) -> None:
        if not message.text and context_id is None and not self._open():
            return  # pipecat's keep-alive between two contexts
        context = self._find(context_id)
        if message.text:
            context.append(message.text)
        if message.flushes:
            context.flush()

    async def _cancel(self, context_id: str | None) -> None:
        context = self._find(context_id, closing=True)
        await context.cancel()
        self._contexts.pop(context.id, None)
        await self._send_result(context.id, {"contextClosed": {}})

    def _find(self, context_id: str | None, *, closing: bool = False) -> Context:
        """Return an open context, or one that is still speaking after its close if ``closing`` ones are wanted too."""
        if context_id is None:
            if self._open():
                raise BadRequest("contextId: needed while several contexts are open.", param="contextId")
            raise UnknownContext("Context not found: no open context.")
        context = self._contexts.get(context_id)
        if context is None or (context.closing and not closing):
            raise UnknownContext(f"Context '{context_id}' not found.")
        return context

    async def _send_result(self, context_id: str, payload: dict[str, object]) -> None:
        await self._send({"result": {"contextId": context_id, "status": _OK, **payload}})

    async def _send(self, message: dict[str, object]) -> None:
        await send(self._socket, message)
