"""What a path says of a request: which entry of a table by prefix it has, and whether it costs anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from starlette.types import Scope

T = TypeVar("T")


def owner(path: str, by_prefix: Mapping[str, T], default: T) -> T:
    """Return the entry of the longest prefix that is the path or a parent of it, else ``default``."""
    path = path.rstrip("/")
    fits = [prefix for prefix in by_prefix if path == prefix or path.startswith(prefix + "/")]
    return by_prefix[max(fits, key=len)] if fits else default


def costs(scope: Scope, costly: Collection[str]) -> bool:
    """Tell whether a request may change something or cost time on the device: sockets do, and all but mere looking.

    ``costly`` are the paths where a GET does too.
    """
    if scope["type"] == "websocket":
        return True
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") or scope["path"] in costly
