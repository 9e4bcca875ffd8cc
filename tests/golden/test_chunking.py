"""Preprocessing and splitting against the reference programs: exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echo.text import split
from echo.text.normalize import normalize_exclamation
from echo.text.pack import estimate_seconds
from echo.text.worker_chunks import chunk_by_chars, chunk_by_chars_and_duration
from echo.types import ChunkRules, TextRules
from tests.reference.streaming_text import chunk_by_time, preprocess_for_stream

VECTORS: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "vectors" / "chunking.json").read_text())
RULE_NAMES = {
    "target_seconds": "target_s",
    "min_seconds": "min_s",
    "max_seconds": "max_s",
    "chars_per_second": "chars_per_s",
    "words_per_second": "words_per_s",
}


def case_id(case: dict[str, Any]) -> str:
    return repr(case["text"][:20])


def over(chunk: str, rules: ChunkRules) -> bool:
    return estimate_seconds(chunk.removeprefix("[S1] "), rules.chars_per_s, rules.words_per_s) > rules.max_s


@pytest.mark.parametrize("case", VECTORS["chunk_by_time"], ids=case_id)
def test_chunks_by_time_equal_the_streaming_variant(case: dict[str, Any]) -> None:
    kwargs = dict(case["kwargs"])
    exclamation = kwargs.pop("normalize_exclamation", True)
    kept = frozenset(word.upper() for word in case["uppercase_words_kept"])
    clean = preprocess_for_stream(case["text"], exclamation=exclamation, keep_uppercase=kept)
    assert clean == case["preprocessed"]
    rules = ChunkRules(**{RULE_NAMES[name]: value for name, value in kwargs.items()})
    assert chunk_by_time(clean, rules) == case["chunks"]
    # The server packs the same way. It closes the gap before a comma, and cuts what the model cannot read.
    text_rules = TextRules(normalize_exclamation=False, keep_uppercase=kept, strip_markup=False)
    server = [chunk.text for chunk in split(clean, text_rules, rules)]
    assert server == [chunk.replace(" ,", ",") for chunk in case["chunks"]] or any(
        len(chunk) > rules.max_bytes or over(chunk, rules) for chunk in case["chunks"]
    )


@pytest.mark.parametrize("case", VECTORS["chunk_by_chars"], ids=case_id)
def test_chunks_by_characters_equal_the_reference(case: dict[str, Any]) -> None:
    assert chunk_by_chars(case["text"], case["max_chars"]) == case["chunks"]


@pytest.mark.parametrize("case", VECTORS["chunk_by_chars_and_duration"], ids=case_id)
def test_chunks_by_duration_equal_the_worker(case: dict[str, Any]) -> None:
    chunks = chunk_by_chars_and_duration(case["text"], case["max_chars"], case["target_duration_seconds"])
    assert chunks == case["chunks"]


@pytest.mark.parametrize("case", VECTORS["exclamation"], ids=case_id)
def test_exclamation_rule(case: dict[str, Any]) -> None:
    assert normalize_exclamation(case["text"]) == case["out"]


@pytest.mark.parametrize("case", VECTORS["estimate_seconds"], ids=case_id)
def test_duration_estimate(case: dict[str, Any]) -> None:
    assert estimate_seconds(case["text"], case["cps"], case["wps"]) == case["seconds"]


def test_zero_characters_switches_the_character_splitter_off() -> None:
    assert chunk_by_chars("word " * 100, 0) == [" ".join(["word"] * 100)]
