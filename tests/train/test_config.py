"""The config file is read strictly."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from echo.errors import ConfigError
from echo.model.autoencoder import AutoencoderConfig
from echo.model.files.hub import locate
from echo.model.network.config import DiTConfig
from train.tiny import config
from train.tiny.__main__ import main, share_out
from train.tiny.budget import Budget, Stopwatch
from train.tiny.stages import HALVES, ORDER, STAGES


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_is_complete() -> None:
    options = config.load(config.DEFAULT)
    assert options.dit_config().latent_size == 80
    assert options.model["engine"]["presets"] == "tiny"


def test_values_reach_nested_options(tmp_path: Path) -> None:
    text = "[dit]\nlr = 1\n[dit.batches]\nbuckets = [32, 64]\nreference = [8, 16]\n[dit.losses]\nctc = 0.5\n"
    options = config.load(written(tmp_path, text)).dit
    assert options.lr == 1.0
    assert options.batches.buckets == (32, 64)
    assert options.batches.reference == (8, 16)
    assert options.losses.ctc == 0.5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[dit]\nlearning = 1\n", "learning"),
        ("[dit.batches]\nbuckets = 3\n", "buckets"),
        ("[dit.batches]\nreference = [1, 2, 3]\n", "reference"),
        ("[dit]\nwarm_up = true\n", "warm_up"),
        ("[run]\nwork = 3\n", "work"),
        ("[corpus]\nhours = 'ten'\n", "hours"),
        ("[corpus]\nphases = false\n[codec.shape.spectral]\nfollow = 0.5\n", r"follow must be 0, not 0\.5"),
        ("[run\n", "TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config.load(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        config.load(tmp_path / "nothing.toml")


def test_a_run_from_nothing_differs_only_in_where_it_begins() -> None:
    shipped = config.load(config.DEFAULT)
    assert shipped.dit.start_from == shipped.codec.start_from == "tiny"
    nothing = config.from_nothing(shipped)
    assert nothing.dit.start_from == nothing.codec.start_from == ""
    assert replace(nothing, dit=shipped.dit, codec=shipped.codec) == shipped


def test_a_run_that_was_begun_from_a_model_is_not_taken_for_one_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "dit").mkdir()
    (tmp_path / "dit" / "options.json").write_text('{"start_from": "tiny"}', encoding="utf-8")
    with pytest.raises(SystemExit, match="was begun from tiny"):
        main(["--from-nothing", "--work", str(tmp_path), "--only", "export"])


@pytest.mark.parametrize("stage", ["dit", "codec", "export"])
def test_a_stage_without_what_it_needs_says_so(tmp_path: Path, stage: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--work", str(tmp_path), "--only", stage])
    assert isinstance(ended.value.code, str)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nothing.toml"], "nothing.toml"),
        (["--only", "poetry"], "poetry"),
        (["--device", "cuda"], "CUDA"),
    ],
)
def test_a_mistake_on_the_command_line_ends_in_a_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert said in f"{ended.value.code} {capsys.readouterr().err}"


def test_time_between_steps_that_is_not_training_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 2.0, 9.0, 10.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    watch = Stopwatch(100.0)
    assert watch.lap() == 102.0
    watch.skip()
    assert watch.lap() == 103.0


def test_a_budget_of_minutes_counts_seconds_and_one_of_steps_counts_steps() -> None:
    assert Budget(minutes=2).progress(seconds=60, step=999) == 0.5
    assert Budget(steps=10).progress(seconds=1e6, step=4) == 0.4
    assert Budget(minutes=1).progress(seconds=600, step=0) == 1.0


@pytest.mark.parametrize("both", [{}, {"minutes": 1.0, "steps": 1}])
def test_a_budget_is_either_minutes_or_steps(both: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="either"):
        Budget(**both)  # type: ignore[arg-type]


def test_the_minutes_are_shared_out_and_the_last_are_for_polishing() -> None:
    shipped = config.load(config.DEFAULT)
    chosen = replace(shipped, codec=replace(shipped.codec, polish_share=0.2))
    share, encoder = chosen.codec.polish_share, chosen.codec.encoder_share
    shares = {
        (device, stages): {name: budget.minutes for name, budget in share_out(chosen, 100, stages, device).items()}
        for device in (torch.device("cpu"), torch.device("cuda"))
        for stages in (tuple(STAGES), ("dit",), ("polish",))
    }
    cpu, cuda = shares[torch.device("cpu"), tuple(STAGES)], shares[torch.device("cuda"), tuple(STAGES)]
    before = pytest.approx(100 * (1 - share))
    assert (cpu["codec"], cpu["dit"]) == (before, before)
    assert cuda["codec"] + cuda["dit"] == before
    for device, found in ((torch.device("cpu"), cpu), (torch.device("cuda"), cuda)):
        # The decoder's whole training: its part of the codec's minutes, and the last ones.
        assert found["polish"] == pytest.approx(found["codec"] * (1 - encoder) + 100 * share)
        assert shares[device, ("polish",)]["polish"] == found["polish"]
        assert shares[device, ("dit",)]["dit"] == 100


def test_halves_of_the_codec_run_between_what_they_need_and_what_needs_them() -> None:
    assert set(ORDER) == {*STAGES, *HALVES}
    assert [stage for stage in ORDER if stage in STAGES] == list(STAGES)
    assert ORDER.index("analysis") < ORDER.index("decoder") < ORDER.index("encoder") < ORDER.index("dit")


def test_the_shipped_choices_make_a_model_that_the_server_accepts() -> None:
    chosen = config.load(config.DEFAULT)
    assert chosen.corpus.cast == "natural"
    known = locate(chosen.dit.start_from)  # its weights are of use only where they fit
    assert DiTConfig.from_dict(known.config["dit"]) == chosen.dit_config()
    assert config.from_nothing(chosen).dit.start_from == ""
    shape = chosen.codec.shape.config()
    assert shape.spectral is not None
    assert AutoencoderConfig.from_dict(json.loads(json.dumps(asdict(shape)))) == shape
