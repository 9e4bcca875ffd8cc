"""Traces of requests, by OpenTelemetry: what the server needs of it. Off unless its variables say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from echo.errors import ConfigError
from echo.stats import SpeechStats

Value = str | int | float | bool
"""What an attribute of a span may be."""


class RequestSpan(Protocol):
    """The span of a request."""

    def rename(self, name: str) -> None:
        """Give it the name that is known only now."""
        ...

    def set(self, name: str, value: Value) -> None:
        """Set an attribute."""
        ...

    def fail(self) -> None:
        """Mark the request as one in which the server has failed."""
        ...


class Tracing(Protocol):
    """Makes spans and exports them from a thread of its own."""

    def request(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, Value]
    ) -> AbstractContextManager[RequestSpan]:
        """Open the span of a request, below the one that the headers name; what is made within is below it."""
        ...

    def speech(self, model: str, stats: SpeechStats, started: float) -> Callable[[], None]:
        """Return what exports the spans of a speech that has ended, whose times count from ``started`` (monotonic).

        They belong to the request of the caller.
        """
        ...

    def outgoing(self) -> dict[str, str]:
        """Return the headers by which a request to another server belongs to the caller's request."""
        ...

    def close(self) -> None:
        """Export what is left; waits a few seconds at most."""
        ...


def open_tracing(exporter: str | None) -> Tracing | None:
    """Return tracing with an exporter, ``otlp`` or ``console``; None = no tracing, and nothing is imported.

    Raises ConfigError where the packages are missing, or a value is wrong.
    """
    if exporter is None:
        return None
    try:
        from echo.open_telemetry import OpenTelemetry
    except ImportError:
        raise ConfigError(
            "OTEL_* asks for traces, but OpenTelemetry is not installed: pip install 'echo-tts-server[tracing]', or "
            "set OTEL_SDK_DISABLED=true."
        ) from None
    try:
        return OpenTelemetry(exporter)
    except ValueError as error:
        raise ConfigError(f"OTEL_*: the SDK does not take one of the values: {error}") from None
