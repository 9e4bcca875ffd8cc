"""``WS /v1/text-to-speech/{voice_id}/stream-input``: one text per connection."""

from __future__ import annotations

from starlette.websockets import WebSocket

from compat.elevenlabs.alignment import Timeline
from compat.elevenlabs.answers import Answer, SpeechAnswers
from compat.elevenlabs.errors import INTERNAL_ERROR, POLICY_VIOLATION, Idle, error_message
from compat.elevenlabs.multi import speak_rules
from compat.elevenlabs.opening import Opening
from compat.elevenlabs.schemas import GenerationConfig, Message, SocketQuery, VoiceSettings
from compat.elevenlabs.turn import Turn
from compat.wire import close, decode, receive, send
from echo.service import SpeechService
from routes.deps import client_of

_ANSWERS = SpeechAnswers(None)


class SingleStream:
    """One connection. An empty text ends the input; the socket is closed when everything has been spoken.

    A wrong message or a failure ends it with an error, so that the client does not take a part for the whole.
    """

    def __init__(self, socket: WebSocket, service: SpeechService, voice: str, query: SocketQuery) -> None:
        self._socket = socket
        self._service = service
        self._voice = voice
        self._query = query
        self._turn: Turn | None = None
        self._failed = False

    async def serve(self, opening: Opening) -> None:
        """Serve until all has been spoken, or the client leaves or is silent for too long; then stop all work."""
        try:
            frame = opening.first or await self._receive()
            while frame is not None and not self._failed:
                await self._handle(frame)
                frame = await self._receive()
        finally:
            if self._turn is not None:
                await self._turn.cancel()
                self._turn = None

    async def _receive(self) -> str | bytes | None:
        return await receive(self._socket, self._query.idle_s, self._busy, self._leave_idle)

    def _busy(self) -> bool:
        return self._turn is not None and self._turn.busy

    async def _leave_idle(self) -> None:
        await self._abort(Idle(f"Nothing has been sent for {self._query.idle_s:g} seconds."))

    async def _handle(self, frame: str | bytes) -> None:
        try:
            self._act(Message.parse(decode(frame)))
        except Exception as error:
            await self._abort(error)

    def _act(self, message: Message) -> None:
        if self._turn is None:
            self._turn = self._opened(message)
        turn = self._turn
        if turn.closing:
            return
        if message.text:
            turn.add(message.text)
        if message.text == "":
            turn.end()
        elif message.flush:
            turn.flush()
        elif message.try_trigger_generation:
            turn.trigger()

    def _opened(self, first: Message) -> Turn:
        settings = first.voice_settings or VoiceSettings()
        rules = speak_rules(self._query, first.generation_config or GenerationConfig())
        request = self._query.to_request(self._voice, settings, client_of(self._socket))
        return Turn(
            self._service.session(request, rules),
            _ANSWERS,
            Timeline(restart=not self._query.sync_alignment),
            self._send,
            self._ended,
            every_message=self._query.auto_mode,
        )

    async def _ended(self, turn: Turn, failure: Exception | None) -> None:
        if failure is not None:
            await self._fail(failure)
            return
        for answer in _ANSWERS.final():
            await self._send(answer)
        await close(self._socket, 1000)

    async def _abort(self, error: Exception) -> None:
        """Stop speaking because of something that the client has done."""
        if self._turn is not None:
            await self._turn.cancel()
        await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        """Say what went wrong and close. Nothing follows the error: the SDK raises it if it is the last message."""
        self._failed = True
        message = error_message(error)
        await self._send(message)
        await close(self._socket, POLICY_VIOLATION if message["code"] == POLICY_VIOLATION else INTERNAL_ERROR)

    async def _send(self, message: Answer) -> None:
        await send(self._socket, message)
