"""``WS /v1/text-to-speech/{voice_id}/multi-stream-input``: several turns on one connection, each in its context."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.websockets import WebSocket

from compat.elevenlabs.alignment import Timeline
from compat.elevenlabs.answers import Answer, Answers, SpeechAnswers
from compat.elevenlabs.errors import POLICY_VIOLATION, Idle, LateSettings, TooManyContexts
from compat.elevenlabs.opening import Opening
from compat.elevenlabs.schemas import GenerationConfig, Message, SocketQuery, VoiceSettings
from compat.elevenlabs.turn import Turn
from compat.wire import close, decode, receive, send
from echo.service import SpeechService
from echo.text import SpeakRules
from routes.deps import client_of

#: Contexts of a connection that take text at once (ElevenLabs' limit).
MAX_CONTEXTS = 5
#: The same with those that have been closed and are still being spoken. livekit closes a context to interrupt it, but
#: what was flushed has to be finished: quick interruptions must not use up the places of the turns that follow.
MAX_SPEAKING = 20


@dataclass(frozen=True, slots=True)
class Context:
    """The id of a turn, None where messages name none, and what its first message has set."""

    id: str | None
    voice: str
    settings: VoiceSettings
    config: GenerationConfig


class MultiStream:
    """One connection. It reads messages and never waits for speech; the tasks of the turns do that."""

    def __init__(self, socket: WebSocket, service: SpeechService, voice: str, query: SocketQuery) -> None:
        self._socket = socket
        self._service = service
        self._voice = voice
        self._query = query
        self._turns: dict[str | None, Turn] = {}
        #: All that have not ended; also those that are still finishing while their id has a new turn.
        self._open: dict[Turn, Context] = {}
        #: All whose tasks run; ended ones may still be sending their last message.
        self._running: set[Turn] = set()
        self._leaving = False
        self._ending = 0  # turns that have ended and are sending their last messages

    async def serve(self, opening: Opening) -> None:
        """Serve until the client leaves or is silent for too long, then stop all work."""
        try:
            frame = opening.first or await self._receive()
            while frame is not None:
                await self._handle(frame)
                frame = await self._receive()
        finally:
            await asyncio.gather(*(turn.cancel() for turn in list(self._running)))
            self._turns.clear()
            self._open.clear()
            self._running.clear()

    async def _receive(self) -> str | bytes | None:
        return await receive(self._socket, self._query.idle_s, self._busy, self._leave_idle)

    def _busy(self) -> bool:
        return any(turn.busy for turn in self._open)

    async def _leave_idle(self) -> None:
        """Close the connection of a silent client; a turn that it has left open ends with an error."""
        open_turns = list(self._open)
        for turn in open_turns:
            await turn.cancel()
            await self._ended(turn, Idle(f"Nothing has been sent for {self._query.idle_s:g} seconds."))
        await close(self._socket, POLICY_VIOLATION if open_turns else 1000, "idle")

    async def _handle(self, frame: str | bytes) -> None:
        """Do what a message asks for. An error is answered; the socket stays open."""
        context_id: str | None = None
        try:
            data = decode(frame)
            context_id = _context_id(data)
            await self._act(self._parsed(data))
        except Exception as error:
            await self._send(self._answers(context_id).error(error))

    def _parsed(self, data: object) -> Message:
        return Message.parse(data)

    async def _act(self, message: Message) -> None:
        turn = self._turns.get(message.context_id)
        if message.opens and not self._leaving:
            turn = await self._opened(message)
            turn.add(message.said)
        if turn is not None and not turn.closing:
            if message.flush:
                turn.flush()
            elif message.try_trigger_generation:
                turn.trigger()
        if turn is not None and message.close_context:
            await self._close(turn)
        if message.close_socket:
            await self._leave()

    async def _opened(self, message: Message) -> Turn:
        """Return the turn that a message is for; a new one where there is none that still takes text."""
        turn = self._turns.get(message.context_id)
        if turn is not None and not turn.closing:
            self._check_later(message, self._open[turn])
            return turn
        taking = sum(not turn.closing for turn in self._open)
        if taking >= MAX_CONTEXTS or len(self._open) >= MAX_SPEAKING:
            raise TooManyContexts(
                f"{taking} contexts are open and {len(self._open) - taking} closed ones are still speaking; allowed on "
                f"one connection are {MAX_CONTEXTS} open ones, {MAX_SPEAKING} in all."
            )
        context = Context(
            message.context_id,
            await self._voice_of(message),
            message.voice_settings or VoiceSettings(),
            message.generation_config or GenerationConfig(),
        )
        request = self._query.to_request(context.voice, context.settings, client_of(self._socket))
        new = Turn(
            self._service.session(request, self._rules(context)),
            self._answers(context.id),
            Timeline(restart=self._restart),
            self._send,
            self._ended,
            every_message=self._query.auto_mode,
            after=turn,
        )
        self._turns[context.id] = new
        self._open[new] = context
        self._running.add(new)
        new.when_done(self._running.discard)
        return new

    def _check_later(self, message: Message, context: Context) -> None:
        """Refuse what only the first message of a context may set."""
        if _differs(message.voice_settings, context.settings) or _differs(message.generation_config, context.config):
            raise LateSettings("voice_settings, generation_config: only the first message of a context may hold them.")

    async def _voice_of(self, message: Message) -> str:
        """Return the voice of the context that a message opens."""
        return self._voice

    def _rules(self, context: Context) -> SpeakRules:
        return speak_rules(self._query, context.config)

    @property
    def _restart(self) -> bool:
        return not self._query.sync_alignment

    def _answers(self, context_id: str | None) -> Answers:
        return SpeechAnswers(context_id)

    async def _close(self, turn: Turn) -> None:
        if turn.interrupted_by_close:
            await turn.cancel()
            await self._ended(turn, None)
        else:
            turn.end()

    async def _leave(self) -> None:
        self._leaving = True
        for turn in list(self._open):
            if not turn.closing:
                await self._close(turn)
        await self._close_if_done()

    async def _ended(self, turn: Turn, failure: Exception | None) -> None:
        """Forget a turn, so that its place and its id are free, and tell the client that it has ended; once."""
        context = self._open.pop(turn, None)
        if context is None:
            return
        if self._turns.get(context.id) is turn:
            del self._turns[context.id]
        self._ending += 1
        if failure is not None:
            await self._send(turn.answers.error(failure))
        for answer in turn.answers.final():
            await self._send(answer)
        self._ending -= 1
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._leaving and not self._open and not self._ending:
            await close(self._socket, 1000)

    async def _send(self, message: Answer) -> None:
        await send(self._socket, message)


def speak_rules(query: SocketQuery, config: GenerationConfig) -> SpeakRules:
    """Return when buffered text is spoken although nobody asks for it."""
    return SpeakRules() if query.auto_mode else SpeakRules(words_from=config.chunk_length_schedule)


def _differs(given: VoiceSettings | GenerationConfig | None, opened: VoiceSettings | GenerationConfig) -> bool:
    """Whether a later message sets something that the first has not set in the same way."""
    if given is None:
        return False
    return any(getattr(given, name) != getattr(opened, name) for name in given.model_fields_set)


def _context_id(data: object) -> str | None:
    """Return the context that a message names, whatever else is wrong with it."""
    if not isinstance(data, dict):
        return None
    names = (data.get("context_id"), data.get("contextId"))
    return next((name for name in names if isinstance(name, str)), None)
