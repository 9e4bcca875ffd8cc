from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from echo.audio.crossfade import CrossfadeJoiner, CrossfadeRules
from tests.reference.crossfade import join_chunks

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


@pytest.mark.slow
@given(
    data=st.data(),
    overlap=st.integers(0, 40),
    silence=st.none() | st.integers(0, 30),
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=4),
)
def test_parts_of_chunks_join_like_whole_ones(
    data: st.DataObject, overlap: int, silence: int | None, lengths: list[int]
) -> None:
    rules = CrossfadeRules(overlap=overlap, silence=silence)
    noise = np.random.default_rng(sum(lengths))
    chunks = []
    for length in lengths:
        chunk = noise.uniform(-1, 1, length).astype(np.float32)
        chunk[length - data.draw(st.integers(0, length)) :] *= 0.001
        chunks.append(chunk)
    joiner, parts = CrossfadeJoiner(rules), []
    for index, chunk in enumerate(chunks):
        cuts = sorted(data.draw(st.lists(st.integers(0, len(chunk)), max_size=3)))
        for part in np.split(chunk, cuts):
            parts.append(joiner.feed(part, is_last=index == len(chunks) - 1))
        parts.append(joiner.end_chunk())
    assert np.array_equal(np.concatenate([*parts, joiner.finish()]), join_chunks(chunks, rules))


def test_a_first_part_leaves_but_for_what_may_still_be_cut_or_faded() -> None:
    tone = np.full(60_000, 0.5, np.float32)
    assert len(CrossfadeJoiner().feed(tone)) == 60_000 - 4_410 - 22_050
    assert len(CrossfadeJoiner().feed(tone, is_last=True)) == 60_000
