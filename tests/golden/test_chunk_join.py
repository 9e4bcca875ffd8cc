from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from echo.audio.crossfade import CrossfadeJoiner, CrossfadeRules, join_chunks

VECTORS = load_file(Path(__file__).parent / "vectors" / "chunk_join.safetensors")
CHUNKS = [VECTORS[f"chunk{i}"][0] for i in range(3)]
RULES = {
    "crossfade_4410": CrossfadeRules(overlap=4_410, silence=None),
    "crossfade_100000": CrossfadeRules(overlap=100_000, silence=None),
    "normalized": CrossfadeRules(),
    "normalized_min3000": CrossfadeRules(silence=3_000),
}


@pytest.mark.parametrize("name", RULES)
def test_joined_chunks_equal_the_reference(name: str) -> None:
    got, wanted = join_chunks(CHUNKS, RULES[name]), VECTORS[name][0]
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-6


@pytest.mark.parametrize("name", RULES)
def test_joining_as_chunks_come_holds_back_only_what_may_still_change(name: str) -> None:
    joiner = CrossfadeJoiner(RULES[name])
    parts = [joiner.push(chunk) for chunk in CHUNKS]
    assert np.array_equal(np.concatenate([*parts, joiner.finish()]), join_chunks(CHUNKS, RULES[name]))
    if name != "crossfade_100000":  # there the overlap exceeds the chunks
        assert len(parts[0]) >= len(CHUNKS[0]) - 4_410 - 22_050


def test_one_chunk_and_none_stay_as_they_are() -> None:
    assert np.array_equal(join_chunks(CHUNKS[:1]), CHUNKS[0])
    assert len(join_chunks([])) == 0


def test_no_overlap_and_no_silence_is_plain_concatenation() -> None:
    rules = CrossfadeRules(overlap=0, silence=None)
    assert np.array_equal(join_chunks(CHUNKS, rules), np.concatenate(CHUNKS))


def test_a_silent_chunk_is_cut_to_the_wanted_silence_at_most() -> None:
    quiet = np.zeros(50_000, np.float32)
    rules = CrossfadeRules(overlap=0, silence=1_000)
    assert len(join_chunks([quiet, CHUNKS[2]], rules)) == 50_000 - 1_000 + len(CHUNKS[2])
