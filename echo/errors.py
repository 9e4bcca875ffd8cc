"""Every failure that a client may be told about, by what went wrong rather than by status code.

The edges (``routes``, ``compat``) translate these into their own wire format; nothing else reaches a
client.
"""

from __future__ import annotations

from typing import Self


class EchoError(Exception):
    """A failure with a message that is safe to show to a client.

    ``code`` is a short machine-readable reason (the codes of the OpenAI surface), ``param`` the request
    field that caused it, ``retry_after_s`` a hint for temporary failures.
    """

    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else type(self).code
        self.param = param
        self.retry_after_s = retry_after_s

    def __copy__(self) -> Self:
        # One error may be told to several: each gets a copy, as whoever raises an error adds its traceback to it.
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update(self.__dict__)
        return other


class BadRequest(EchoError):
    """The request itself is wrong: a missing, mistyped or out-of-range field."""

    code = "invalid_value"


class VoiceNotFound(EchoError):
    """No voice of that ``name``; the same message whatever the reason, so that nothing about the disk leaks."""

    code = "voice_not_found"

    def __init__(self, name: str, *, param: str = "voice") -> None:
        self.name = name
        shown = "".join(c for c in name if c.isprintable())[:64]
        super().__init__(f"Unknown voice '{shown}'. The available voices are listed at GET /v1/voices.", param=param)


class TooLarge(EchoError):
    """A body, sample or voice above a configured size limit."""

    code = "request_too_large"


class TimedOut(EchoError):
    """The client did not send in time what it had begun."""

    code = "request_timeout"


class Unauthorized(EchoError):
    """An API key is required and was missing or wrong."""

    code = "invalid_api_key"


class FeatureDisabled(EchoError):
    """The operator has switched this feature off."""

    code = "feature_disabled"


class Forbidden(EchoError):
    """The target may not be changed by this operation (a bundled voice, say)."""

    code = "forbidden"


class QuotaExceeded(Forbidden):
    """What clients may keep on the server is used up."""

    code = "quota_exceeded"


class NotFound(EchoError):
    """A named thing other than a voice to speak with does not exist."""

    code = "not_found"


class Conflict(EchoError):
    """What is asked for does not go together with the state of the thing it is asked of."""

    code = "conflict"


class Overloaded(EchoError):
    """The queue is full: refused before any device work; ``retry_after_s`` is always set."""

    code = "queue_full"


class NotReady(EchoError):
    """The engine is still loading or the server is shutting down."""

    code = "model_not_ready"


class VoiceUnavailable(EchoError):
    """A voice is kept elsewhere, and cannot be had from there right now."""

    code = "voice_unavailable"


class Preempted(EchoError):
    """Work in the background had to make room for somebody who listens; it may be tried again."""

    code = "preempted"


class DeviceStopped(NotReady):
    """The device has died, or has done nothing for too long; only a new process helps."""

    code = "device_stopped"

    def __init__(self) -> None:
        super().__init__("The device has stopped; the server has to be started again.", retry_after_s=30)


class OutOfMemory(NotReady):
    """The device has no memory left for this request, though it should have had; others go on."""

    code = "out_of_memory"

    def __init__(self) -> None:
        super().__init__("The device has no memory left for this request. Try again shortly.", retry_after_s=5)


class EngineFailed(EchoError):
    """Generation failed inside the engine; the message says nothing about the internals."""

    code = "generation_failed"


#: Why a speech may fail after it has begun; bounded, because it is a label of a metric.
FAILURES = (
    *(
        str(kind.code)
        for kind in (EngineFailed, DeviceStopped, OutOfMemory, NotReady, Overloaded, TooLarge, BadRequest)
    ),
    "internal_error",
)


def failure_reason(error: Exception) -> str | None:
    """Return which of ``FAILURES`` an error is: the code of its class; None for what is tried again."""
    if isinstance(error, Preempted):
        return None
    code = type(error).code if isinstance(error, EchoError) else None
    return code if code in FAILURES else FAILURES[-1]


class LoadError(EchoError):
    """Weights could not be loaded; the message is one line with the remedy, meant for the operator."""

    code = "load_failed"


class ConfigError(EchoError):
    """A setting has a wrong value; the message names variable, value and what is allowed."""

    code = "invalid_setting"
