"""Rules by path: look-up by longest prefix, and which requests cost time on the device."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from starlette.types import Scope

T = TypeVar("T")


def longest_prefix(path: str, table: Mapping[str, T], default: T) -> T:
    """Return the entry of the longest prefix that is the path or a parent of it, else ``default``."""
    path = path.rstrip("/")
    fits = [prefix for prefix in table if path == prefix or path.startswith(prefix + "/")]
    return table[max(fits, key=len)] if fits else default


def costs(scope: Scope, costly: Collection[str]) -> bool:
    """Whether a request may change something or cost time on the device: every socket, and every method that writes.

    ``costly`` are the paths where a GET does too.
    """
    if scope["type"] == "websocket":
        return True
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") or scope["path"] in costly
