"""Which entry of a table by path prefix a path belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def owner(path: str, by_prefix: Mapping[str, T], default: T) -> T:
    """Return the entry of the longest prefix that is the path or a parent of it, else ``default``."""
    path = path.rstrip("/")
    fits = [prefix for prefix in by_prefix if path == prefix or path.startswith(prefix + "/")]
    return by_prefix[max(fits, key=len)] if fits else default
