"""What a family of wire formats brings along when it is mounted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter

from routes.errors import ErrorShape
from routes.scopes import KeyScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Routes, and what holds for the paths they own.

    Paths are registered without a trailing slash: the server removes one before it routes. ``error_shapes`` and
    ``body_limits`` and, of sockets, ``message_limits`` (bytes) are keyed by path prefix, the longest wins; other paths
    have the server's defaults.
    ``costly`` are the paths where a mere GET takes time on the device. ``late_keys`` are path prefixes where a socket
    may bring its API key after the headers (``routes.auth.present``). ``ongoing`` are path prefixes of requests that
    belong to something open already, which a server that shuts down still takes. ``scopes`` are path prefixes where a
    key needs another scope than speak.
    """

    router: APIRouter
    error_shapes: Mapping[str, ErrorShape] = field(default_factory=dict)
    body_limits: Mapping[str, int] = field(default_factory=dict)
    message_limits: Mapping[str, int] = field(default_factory=dict)
    costly: Collection[str] = ()
    late_keys: Collection[str] = ()
    ongoing: Collection[str] = ()
    scopes: Mapping[str, KeyScope] = field(default_factory=dict)
