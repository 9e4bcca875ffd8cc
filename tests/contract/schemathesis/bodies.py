"""Strategies for what a client may send: nothing like JSON, any JSON, and a good body with some fields gone wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from api_server import create_app
from echo.settings import Settings
from tests.contract.cloning import base64_clip

OPENAPI: dict[str, Any] = create_app(Settings()).openapi()
# It would end the service of a server that all tests share; what it takes is tested in tests/contract/limits.
del OPENAPI["paths"]["/admin/drain"]
#: A good body for every route at once: each ignores the fields of the others.
GOOD = {
    "input": "Hello there.",
    "text": "Hello there.",
    "voice": "anna",
    "voiceId": "anna",
    "voice_id": "anna",
    "speaker_wav": "anna",
    "inputs": [{"text": "Hello there.", "voice_id": "anna"}],
    "displayName": "fuzz",
    "items": [{"input": "Hello there."}],
    "voiceSamples": [{"audioData": base64_clip(seconds=0.5, rate=8_000)}],
}
_ODD_TEXT = [
    "",
    " ",
    "\x00",
    "..",
    "../anna",
    "anna\n",
    "nan",
    "1e999",
    "*sighs*",
    "[pause]",
    "http://[",
    "\ud800",
    "\U000e0001",
    "ﷺ" * 50,
    "a" * 5000,
    "data:audio/wav;base64,AAAA",
]
_ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e-320, 1e308, 44_100, 24_000, 640, 641]
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from(_ODD_NUMBERS)
    | st.sampled_from(_ODD_TEXT)
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def fields() -> dict[str, list[Any]]:
    """Every field of every documented body and query, with the values that its description names."""
    found: dict[str, list[Any]] = {}
    for node in _nodes(OPENAPI):
        if "in" in node and "name" in node:
            found.setdefault(str(node["name"]), []).extend(_named(node.get("schema", {})))
        for name, schema in dict(node.get("properties", {})).items():
            found.setdefault(name, []).extend(_named(schema))
    return found


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, list):
        for item in node:
            yield from _nodes(item)
    if isinstance(node, dict):
        yield node
        for item in node.values():
            yield from _nodes(item)


def _named(schema: Mapping[str, Any]) -> list[Any]:
    named: list[Any] = []
    for node in _nodes(schema):
        named += node.get("enum", []) + [node[key] for key in ("const", "minimum", "maximum", "default") if key in node]
    return named


def _spellings(name: str) -> list[str]:
    return [name, re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)]


def _spoilt() -> st.SearchStrategy[dict[str, Any]]:
    known = {spelling: values for name, values in fields().items() for spelling in _spellings(name)}

    def with_value(name: str) -> st.SearchStrategy[tuple[str, Any]]:
        named = known[name]
        values = anything | st.sampled_from(named) if named else anything
        return st.tuples(
            st.just(name), values | st.lists(values, max_size=3) | st.dictionaries(_names, values, max_size=2)
        )

    _names = st.sampled_from(sorted(known))
    changes = st.lists(_names.flatmap(with_value), min_size=1, max_size=4).map(dict)
    nested = st.builds(lambda inner: {"extra_body": inner}, changes)
    return st.builds(
        lambda *parts: {key: value for part in parts for key, value in part.items()}, changes, changes | nested
    )


#: A good body in which some fields have been changed or added.
spoilt = _spoilt().map(lambda changes: {**GOOD, **changes})
#: Text or bytes that may or may not be JSON.
raw = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | anything.map(lambda value: json.dumps(value).encode()[:-1])
    | st.integers(1, 200).map(lambda depth: b"[" * depth * 500)
    | st.integers(1, 200).map(lambda depth: b'{"a":' * depth)
)


def encoded(value: Any) -> bytes:
    """Write JSON as lenient writers do: NaN, Infinity and halves of surrogate pairs included."""
    return json.dumps(value).encode()
