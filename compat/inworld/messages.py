"""Messages that a client sends on Inworld's socket."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from compat.inworld.schemas import Voicing, Wire, upper
from echo.errors import BadRequest


class ContextConfig(Voicing):
    """``create`` on the socket: a voicing, and when to speak text without a flush."""

    auto_mode: bool | None = None
    auto_mode_strategy: Annotated[str, BeforeValidator(upper)] = ""
    buffer_char_threshold: Annotated[int, Field(ge=0)] = 0
    max_buffer_delay_ms: Annotated[int, Field(ge=0)] = 0

    def updated(self, change: ContextUpdate) -> ContextConfig:
        """Return this configuration with every field that ``change`` names; the model stays.

        Raises BadRequest when old and new values contradict each other.
        """
        named = change.model_dump(exclude_unset=True, exclude={"model_id", "audio_config"})
        audio = self.audio_config.model_dump() | change.audio_config.model_dump(exclude_unset=True)
        return ContextConfig.parse({**self.model_dump(), **named, "audio_config": audio})

    def echoed(self) -> dict[str, object]:
        """Return what ``contextCreated`` and ``contextUpdated`` repeat to the client."""
        return self.model_dump(
            mode="json",
            by_alias=True,
            exclude_none=True,
            include={"voice_id", "model_id", "audio_config", "timestamp_type", "auto_mode"},
        )


class ContextUpdate(ContextConfig):
    """``update_config``: any of the fields of ``create``."""

    voice_id: str = ""


class SendText(Wire):
    """``send_text``: text to append, and to speak at once if ``flush_context`` is in it."""

    text: str = ""
    flush_context: Any = None

    @property
    def flushes(self) -> bool:
        """Whether the text and what is buffered must be spoken now."""
        return _given(self.flush_context)


class Action(StrEnum):
    """The actions that a message may ask for, in the order in which several are done."""

    CREATE = "create"
    UPDATE = "update_config"
    TEXT = "send_text"
    FLUSH = "flush_context"
    CLOSE = "close_context"
    CANCEL = "cancel_context"


class Message(Wire):
    """The envelope of a client message on the socket.

    What is inside is validated later, so that its errors can name the context.
    """

    context_id: Annotated[str, Field(max_length=256)] = ""
    create: Any = None
    update_config: Any = None
    send_text: Any = None
    flush_context: Any = None
    close_context: Any = None
    cancel_context: Any = None

    def actions(self) -> list[Action]:
        """Return what the message asks for; raises BadRequest if that is nothing known."""
        if asked := [action for action in Action if _given(getattr(self, action))]:
            return asked
        raise BadRequest(f"Unknown message; it needs one of: {', '.join(Action)}.")


def _given(value: object) -> bool:
    return value is not None and value is not False
