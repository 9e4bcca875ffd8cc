import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from echo.errors import BadRequest, ConfigError
from echo.presets import PresetFile, Presets, chunk_rules, load_presets
from echo.settings import HOME
from echo.types import ChunkRules, SpeechOptions


def presets(name: str = "default", family: str = "echo", **limits: Any) -> Presets:
    values: dict[str, Any] = {"nonstream_steps": None, "max_latents": 640, "max_layers": 24, **limits}
    return load_presets(HOME / "presets.toml", family, name, **values)


def shape(found: Presets, *, streaming: bool = True, secondary: bool = False, **options: Any) -> list[tuple[int, int]]:
    plan = found.plan(SpeechOptions(**options), streaming=streaming, secondary=secondary)
    return [(block.size, block.steps) for block in plan.blocks]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("default", [(32, 8), (128, 15), (480, 20)]),
        ("low_mid", [(32, 8), (128, 10), (480, 15)]),
        ("low", [(32, 8), (64, 10), (272, 15), (272, 15)]),
        ("equal", [(213, 15), (213, 15), (214, 15)]),
    ],
)
def test_the_presets_of_existing_servers(name: str, expected: list[tuple[int, int]]) -> None:
    assert shape(presets(name)) == expected


def test_nonstream_requests_use_one_large_block() -> None:
    assert shape(presets(), streaming=False) == [(640, 20)]
    assert shape(presets(nonstream_steps=30), streaming=False) == [(640, 30)]


def test_chunks_after_the_first_use_the_nonstream_shape_unless_the_request_has_one() -> None:
    assert shape(presets(), secondary=True) == [(640, 20)]
    assert shape(presets(), num_steps=(5, 6, 7), secondary=True) == [(32, 5), (128, 6), (480, 7)]
    assert shape(presets(), block_sizes=(40, 60, 80), secondary=True) == [(40, 8), (60, 15), (80, 20)]


def test_one_step_count_serves_every_block() -> None:
    assert shape(presets(), num_steps=5) == [(32, 5), (128, 5), (480, 5)]
    assert shape(presets(), num_steps=5, block_sizes=(64,)) == [(64, 5)]


def test_another_number_of_blocks_needs_steps_when_streaming() -> None:
    with pytest.raises(BadRequest) as caught:
        shape(presets(), block_sizes=(32, 64))
    assert caught.value.param == "num_steps"
    assert shape(presets(), block_sizes=(32, 64), streaming=False) == [(32, 20), (64, 20)]


def test_sequence_length_cuts_the_plan() -> None:
    assert shape(presets(), sequence_length=100) == [(32, 8), (68, 15)]


def test_a_plan_longer_than_the_model_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        shape(presets(family="tiny", max_latents=256, max_layers=7), block_sizes=(300,), num_steps=4)
    assert caught.value.param == "block_sizes"


def test_overrides_reach_the_sampler() -> None:
    plan = presets().plan(SpeechOptions(cfg_scale_text=2.0, truncation_factor=0.8), streaming=True)
    assert plan.params.cfg_scale_text == 2.0
    assert plan.params.cfg_scale_speaker == 8.0
    assert {block.truncation for block in plan.blocks} == {0.8}


def test_a_window_that_the_preset_closes_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        presets().plan(SpeechOptions(cfg_max_t=0.3), streaming=True)
    assert caught.value.param == "cfg_min_t"


def test_layers_beyond_the_model_are_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        presets(family="tiny", max_latents=256, max_layers=7).plan(
            SpeechOptions(speaker_kv_max_layers=8), streaming=True
        )
    assert caught.value.param == "speaker_kv_max_layers"


def test_an_unknown_preset_of_the_operator_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert presets("fastest").default == "default"
    assert "fastest" in caplog.text


def test_an_unknown_preset_of_a_request_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        presets().plan(SpeechOptions(), preset="fastest", streaming=True)
    assert caught.value.param == "preset"
    assert "low_mid" in caught.value.message


def test_users_may_add_presets(tmp_path: Path) -> None:
    file = tmp_path / "presets.toml"
    file.write_text(
        "[echo.default]\nblock_sizes=[32,64]\nnum_steps=[4,5]\ncfg_scale_text=2.5\n[echo.mine]\nnum_steps=[1,2]\n"
    )
    mine = load_presets(file, "echo", "mine", nonstream_steps=None, max_latents=640, max_layers=24)
    assert shape(mine) == [(32, 1), (64, 2)]
    assert mine.plan(SpeechOptions(), streaming=True).params.cfg_scale_text == 2.5


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        "[other.default]\nblock_sizes=[1]\nnum_steps=1",
        "[echo.default]\nblock_sizes=[32]\nnum_steps=[1,2]",
        "[echo.default]\nblock_sizes=[32]\nnum_steps=1\nsurprise=2",
        "[echo.default]\nblock_sizes=[700]\nnum_steps=1",
        "[echo.default]\nblock_sizes=[32]\nnum_steps=0",
        "[echo.default]\nnum_steps=1",
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "presets.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"presets\.toml"):
        load_presets(file, "echo", "default", nonstream_steps=None, max_latents=640, max_layers=24)


def test_one_chunking_bound_alone_moves_the_others() -> None:
    base = ChunkRules(target_s=30, min_s=20, max_s=40)
    assert chunk_rules(base, SpeechOptions()) == base
    short = chunk_rules(base, SpeechOptions(chunk_target_seconds=10))
    assert (short.min_s, short.target_s, short.max_s) == (10, 10, 40)
    capped = chunk_rules(base, SpeechOptions(chunk_max_seconds=15))
    assert (capped.min_s, capped.target_s, capped.max_s) == (15, 15, 15)
    with pytest.raises(BadRequest):
        chunk_rules(base, SpeechOptions(chunk_target_seconds=10, chunk_min_seconds=20))


def test_chunking_can_be_switched_off() -> None:
    assert not chunk_rules(ChunkRules(), SpeechOptions(chunking_enabled=False)).enabled


def test_presets_of_the_released_model_size_their_blocks_but_the_exact_one() -> None:
    found = presets()
    assert found.plan(SpeechOptions(), streaming=True).sized
    assert found.plan(SpeechOptions(), preset="low", streaming=False).sized
    assert not found.plan(SpeechOptions(), preset="exact", streaming=True).sized
    exact = found.plan(SpeechOptions(), preset="exact", streaming=False)
    assert [block.size for block in exact.blocks] == [640]


@pytest.mark.parametrize(
    "options",
    [
        {"block_sizes": (64, 64), "num_steps": 4},
        {"num_steps": 4},
        {"sequence_length": 100},
        {"truncation_factor": (0.8, 0.9, 1.0)},
    ],
)
def test_blocks_that_a_request_shapes_itself_are_exact(options: dict[str, object]) -> None:
    assert not presets().plan(SpeechOptions(**options), streaming=True).sized  # type: ignore[arg-type]


def test_the_embedded_model_keeps_its_blocks_unless_asked() -> None:
    found = presets(family="tiny", max_latents=256, max_layers=7)
    assert not found.plan(SpeechOptions(), streaming=True).sized
    assert found.plan(SpeechOptions(), preset="sized", streaming=False).sized


def options_of(**tables: dict[str, object]) -> PresetFile:
    return PresetFile("presets.toml", {"echo": {"default": {}, "low": {}}, "other": tables})


def test_an_engine_without_blocks_has_values_of_its_own_options_as_presets() -> None:
    presets = options_of(default={"pitch": 1.0, "calm": True}, deep={"pitch": 0.5}).resolve_options(
        "other", "default", dict
    )
    assert presets.get(None).options == {"pitch": 1.0, "calm": True}
    assert presets.get("deep").options == {"pitch": 0.5, "calm": True}
    with pytest.raises(BadRequest, match="known ones are default, deep"):
        presets.get("low")
    assert presets.plan(SpeechOptions(), streaming=True).blocks


def test_an_engine_without_presets_takes_the_names_of_all_others_for_the_default() -> None:
    presets = options_of().resolve_options("other", "low", dict)
    assert presets.get("low").options == presets.get(None).options == {}
    with pytest.raises(BadRequest, match="known ones are default"):
        presets.get("loud")


def test_a_preset_with_an_option_that_the_engine_lacks_is_named() -> None:
    def check(table: Mapping[str, object]) -> None:
        if "volume" in table:
            raise BadRequest("volume: there is none.", param="volume")

    with pytest.raises(ConfigError, match=r"\[other\.wrong\]: volume: there is none"):
        options_of(wrong={"volume": 11}).resolve_options("other", "default", check)
