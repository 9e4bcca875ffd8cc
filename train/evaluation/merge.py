"""Adds parts to a result: what needs a quiet machine, or was forgotten, can be measured later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the parts of both, the new one's where both have them.

    Raises ValueError when they are not of the same texts and weights.
    """
    about = new["results"]
    weights = [(checkpoint["name"], checkpoint["digest"]) for checkpoint in about["checkpoints"]]
    require_same(old["results"], about["set"]["digest"], weights)
    together: dict[str, Any] = _both(old, new)
    return {**together, "command": f"{old['command']} && {new['command']}"}


def require_same(results: Mapping[str, Any], texts: str, weights: Sequence[tuple[str, str]]) -> None:
    """Raise ValueError where results are of other texts or voices (a digest) or other weights (names and digests)."""
    found = [(checkpoint["name"], checkpoint["digest"]) for checkpoint in results["checkpoints"]]
    if (results["set"]["digest"], found) != (texts, list(weights)):
        raise ValueError("The result that is to be added to is of other texts, voices or weights.")


def _both(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return {key: _both(old[key], new[key]) if key in old and key in new else {**old, **new}[key] for key in keys}
    if _of_tables(old) and _of_tables(new) and len(old) == len(new):
        return [_both(one, two) for one, two in zip(old, new, strict=True)]
    return new


def _of_tables(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, Mapping) for one in value)
