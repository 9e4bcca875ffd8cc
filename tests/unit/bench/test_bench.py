"""The pure parts of the benchmarks: arithmetic, costs, records, tables. Nothing here is timed."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import ROOT, compare, cost, goals, neighbours, runner, show, stats, voice
from bench.check import Check
from bench.engines import fake_engine, known_to_the_server, recompiles, watch
from bench.loadgen import Load, summary
from bench.options import result_path
from bench.plot import draw
from bench.record import make_record, write_record
from bench.roofline import Ceilings, gap
from bench.server import as_environment
from bench.stats import Arrival
from bench.table import fill, load
from bench.targets import Heard, Outcome
from bench.throughput import real_time_streams
from echo.model.autoencoder import RELEASED, Autoencoder
from echo.model.network.config import ECHO_TTS_BASE
from echo.model.network.dit import EchoDiT
from echo.settings import Settings, load_settings
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT, BlockPlan, BlockSpec, Utterance

GIGA = 1e9


# -- percentiles, players, arrivals


def test_percentiles_lie_between_neighbours() -> None:
    assert stats.percentiles(list(range(101))) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert stats.percentiles([1.0, 2.0]) == {"p50": 1.5, "p95": 1.95, "p99": 1.99}
    assert stats.percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_player_that_always_has_audio_does_not_starve() -> None:
    assert stats.starved([]) == stats.Starved()
    assert stats.starved([Arrival(5.0, 1.0), Arrival(6.0, 1.0), Arrival(7.1, 1.0)]) == stats.Starved()


def test_player_starves_from_the_end_of_its_audio_until_more_comes() -> None:
    pieces = [Arrival(0.0, 1.0), Arrival(1.5, 1.0), Arrival(2.4, 0.2), Arrival(4.0, 1.0)]
    found = stats.starved(pieces, 0.1)
    # Plays 0.1 to 1.1, stands until 1.5, plays to 2.7, stands until 4.0.
    assert found.times == 2
    assert found.seconds == pytest.approx(0.4 + 1.3)


def test_buffer_delays_the_start_and_so_the_starving() -> None:
    pieces = [Arrival(0.0, 1.0), Arrival(1.3, 1.0)]
    assert stats.starved(pieces, 0.1).times == 1
    assert stats.starved(pieces, 0.5).times == 0


def test_audio_outside_the_window_does_not_count() -> None:
    assert stats.audio_within([Arrival(1, 1.0), Arrival(2, 2.0), Arrival(3, 4.0)], 1.5, 2.5) == 2.0


def test_random_arrivals_repeat_with_their_seed_and_have_their_rate() -> None:
    times = stats.poisson_times(50.0, 100.0, seed=3)
    assert times == stats.poisson_times(50.0, 100.0, seed=3)
    assert times != stats.poisson_times(50.0, 100.0, seed=4)
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 100.0
    # Five standard deviations of a Poisson count of mean 5000.
    assert abs(len(times) - 5000) < 354


def test_quantile_of_a_histogram_is_the_upper_border_of_its_bucket() -> None:
    buckets = {0.001: 90.0, 0.01: 98.0, 0.1: 100.0, float("inf"): 100.0}
    assert stats.histogram_quantile(buckets, 0.5) == 0.001
    assert stats.histogram_quantile(buckets, 0.99) == 0.1
    assert stats.histogram_quantile({0.1: 0.0, float("inf"): 0.0}, 0.99) is None


def heard(asked: float, pieces: list[Arrival], outcome: Outcome = Outcome.DONE) -> Heard:
    return Heard(asked=asked, arrivals=pieces, outcome=outcome)


def test_summary_counts_audio_of_the_window_and_starving_of_whole_streams() -> None:
    whole = heard(0.0, [Arrival(1.0, 1.0), Arrival(4.0, 3.0)])
    open_at_the_end = heard(2.0, [Arrival(5.0, 1.0), Arrival(20.0, 9.0)], Outcome.HUNG_UP)
    refused = heard(3.0, [], Outcome.REFUSED)
    found = summary([Load(2.0, 7.0, [whole, open_at_the_end, refused])])
    assert found["audio_s_per_s"] == pytest.approx((3.0 + 1.0) / 5.0)
    assert (found["requests"], found["done"], found["refused"], found["not_heard_out"]) == (3, 1, 1, 1)
    assert found["ttfb_p50_s"] == pytest.approx(2.0)
    assert (found["streams_with_underruns"], found["underruns"]) == (1, 1)
    assert found["stalled_s"] == pytest.approx(4.0 - 2.1)
    assert found["audio_s_per_request"] == 4.0


def test_stream_is_real_time_while_all_hear_something_soon_and_no_gap() -> None:
    good = {"listeners": 8.0, "requests": 9, "done": 9, "ttfb_p95_s": 0.39, "underruns": 0}
    late, dry = {**good, "listeners": 16.0, "ttfb_p95_s": 0.41}, {**good, "listeners": 32.0, "underruns": 1}
    refused, empty = {**good, "listeners": 64.0, "requests": 10}, {**good, "listeners": 128.0, "ttfb_p95_s": None}
    assert real_time_streams([good, late, dry, refused, empty]) == 8.0
    assert real_time_streams([late]) is None


def test_ratio_is_that_of_the_medians_and_told_round_by_round() -> None:
    def load(seconds: float) -> Load:
        return Load(0.0, seconds, [heard(0.0, [Arrival(0.5, 6.0)])])

    found = compare.ratio("together", [load(2), load(3), load(1)], "alone", [load(4), load(4), load(4)])
    assert found["together_audio_s_per_s"] == [3.0, 2.0, 6.0]
    assert (found["ratio"], found["ratio_by_round"]) == (2.0, [2.0, 1.333, 4.0])


def test_load_in_which_a_request_failed_has_no_rate() -> None:
    with pytest.raises(RuntimeError, match="refused"):
        compare.rate(Load(0.0, 1.0, [heard(0.0, [], Outcome.REFUSED)]))


def test_audio_is_the_same_when_its_bytes_are_whoever_came_first() -> None:
    def load(*answers: bytes) -> Load:
        made = Load(0.0, 1.0, [heard(0.0, []) for _ in answers])
        for one, answer in zip(made.heard, answers, strict=True):
            one.take(answer)
        return made

    assert compare.same_audio([load(b"ab", b"cd"), load(b"cd", b"ab")])
    assert not compare.same_audio([load(b"ab", b"cd"), load(b"ab", b"ce")])


# -- neighbours


def test_deviation_is_the_largest_sample_and_the_share_of_the_loudness() -> None:
    expected = np.asarray([0.3, -0.4, 0.3, -0.4], np.float32)
    assert neighbours.deviation(expected, expected) == (0.0, 0.0)
    assert neighbours.deviation(expected * 0.9, expected) == pytest.approx((0.04, 0.1))
    assert neighbours.deviation(expected[:3], expected) == (float("inf"), float("inf"))


def test_fake_speaks_the_same_alone_and_among_others() -> None:
    plan = BlockPlan(blocks=(BlockSpec(size=4, steps=1), BlockSpec(size=4, steps=1)))
    checks = neighbours.neighbour_checks(fake_engine(paced=False), plan, torch.float32)
    assert [(check.deviation, check.bound, check.passed) for check in checks] == [(0.0, 0.0, True)] * 2


def test_reference_is_as_long_as_asked_and_speaks_as_the_default_voice() -> None:
    assert len(voice.reference(12.5)) == 12.5 * SAMPLE_RATE
    before = load_settings({})
    with voice.speaking_with(before, None) as settings:
        assert settings is before
    with voice.speaking_with(before, 2.0) as settings:
        (clip,) = settings.voice_folders[0].iterdir()
        assert clip.stem == settings.default_voice
        assert clip.stat().st_size == 44 + 2 * 2 * SAMPLE_RATE


def test_streams_of_a_watched_engine_are_told() -> None:
    engine, told = fake_engine(paced=False), []
    watch(engine, lambda utterance, stream: told.append((utterance.text, stream)))
    stream = engine.speak(Utterance(text="Hello.", plan=BlockPlan(blocks=(BlockSpec(size=4, steps=1),)), seed=1))
    assert told == [("Hello.", stream)]
    assert recompiles(engine) == 0


def test_summary_of_several_loads_does_not_count_the_time_between() -> None:
    loads = [Load(0.0, 1.0, [heard(0.0, [Arrival(0.5, 2.0)])]), Load(50.0, 51.0, [heard(50.0, [Arrival(50.5, 4.0)])])]
    assert summary(loads)["audio_s_per_s"] == 3.0


# -- costs and roofline


@pytest.mark.parametrize(
    ("size", "prefix", "patches", "gflop"),
    [(32, 0, 53, 89.1), (128, 8, 160, 361.9), (480, 40, 53, 1383.2), (640, 0, 160, 1872.8)],
)
def test_operations_of_a_step_of_the_released_model(size: int, prefix: int, patches: int, gflop: float) -> None:
    # Published counts less the 0.34 GFLOP of the modulation, which a schedule computes once.
    one = cost.step(ECHO_TTS_BASE, size, [prefix + 128 + patches], 2)
    assert one.flops / GIGA == pytest.approx(gflop, abs=0.1)
    three = cost.step(ECHO_TTS_BASE, size, [prefix + 128 + patches] * 3, 2)
    assert three.flops == pytest.approx(3 * one.flops)


def test_operations_of_the_encoders_of_the_released_model() -> None:
    assert cost.text_encoder(ECHO_TTS_BASE, 128, 2).flops / GIGA == pytest.approx(76 + 32, rel=0.01)
    assert cost.text_encoder(ECHO_TTS_BASE, 768, 2).flops / GIGA == pytest.approx(493 + 193, rel=0.01)
    assert cost.latent_encoder(ECHO_TTS_BASE, 160, 2).flops / GIGA == pytest.approx(96 + 40, rel=0.01)
    assert cost.latent_encoder(ECHO_TTS_BASE, 1600, 2).flops / GIGA == pytest.approx(1124 + 403, rel=0.01)


def test_operations_of_the_released_autoencoder() -> None:
    assert cost.decode(RELEASED, 1, 4).flops / GIGA == pytest.approx(6.76, rel=0.01)
    assert cost.decode(RELEASED, 640, 4).flops / GIGA == pytest.approx(4329, rel=0.01)
    assert cost.encode(RELEASED, 640, 4).flops / GIGA / 640 == pytest.approx(3.57, rel=0.01)


def test_weights_of_a_step_are_those_of_the_modules_it_runs() -> None:
    with torch.device("meta"):
        model = EchoDiT(ECHO_TTS_BASE)
    parts = ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "attention.gate", "mlp")
    expected = model.in_proj.weight.numel() + model.out_proj.weight.numel()
    for index in range(ECHO_TTS_BASE.num_layers):
        for part in parts:
            module = model.get_submodule(f"blocks.{index}.{part}")
            expected += sum(parameter.numel() for parameter in module.parameters())
    assert cost.dense_weights(ECHO_TTS_BASE) == expected


def test_bytes_of_decoding_are_those_of_the_decoding_modules() -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(RELEASED)
    quantizer = autoencoder.quantizer
    modules = (quantizer.post_module, quantizer.upsample, autoencoder.decoder)
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    assert cost.decode(RELEASED, 1, 4).bytes / 4 == pytest.approx(parameters, rel=0.002)


def test_prefix_behind_others_costs_more_attention_and_nothing_else() -> None:
    first, later = (cost.latent_encoder(ECHO_TTS_BASE, 8, 2, past=past) for past in (0, 100))
    layers, width = ECHO_TTS_BASE.speaker_num_layers, ECHO_TTS_BASE.speaker_model_size
    assert later.flops - first.flops == layers * 4 * 8 * 100 * width
    assert later.bytes - first.bytes == layers * 2 * 100 * width * 2


def test_limit_is_the_slower_of_computing_and_moving() -> None:
    ceilings = Ceilings("float32", tflop_per_s=2.0, gbyte_per_s=10.0)
    assert ceilings.limit(4e12, 1e9) == (2.0, "compute")
    assert ceilings.limit(1e9, 50e9) == (5.0, "memory")
    assert gap(3.0, 2.0) == 1.5
    assert gap(3.0, 0.0) is None


# -- what is driven


def test_only_models_of_the_benchmarks_need_their_own_server() -> None:
    assert [known_to_the_server(name) for name in ("tiny", "some/repository", "random-base", "fake")] == [
        True,
        True,
        False,
        False,
    ]


def test_fake_engine_speaks_the_length_of_its_text() -> None:
    plan = BlockPlan(blocks=(BlockSpec(size=22, steps=1), BlockSpec(size=64, steps=1)))
    engine = fake_engine(paced=False)
    frames = list(engine.speak(Utterance(text="x" * 30, plan=plan, seed=1)))
    wanted = 30 * engine.script.audio_s_per_char * engine.info.sample_rate
    assert sum(len(frame.samples) for frame in frames) == pytest.approx(wanted, abs=1)
    assert [len(frame.samples) for frame in frames][:1] == [22 * SAMPLES_PER_LATENT]


def test_settings_survive_the_way_through_the_environment() -> None:
    settings = load_settings({}, model_repo="random-tiny", max_queue=64, chunking=False, voices_dir="a,b")
    environment = as_environment(settings)
    assert environment["ECHO_CHUNKING"] == "0"
    assert load_settings(environment) == settings
    assert as_environment(Settings()) == {}


# -- records and tables


def test_record_tells_its_command_without_the_machines_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--keep", str(ROOT / "bench" / "results"), "--model", "/home/me/model"]
    monkeypatch.setattr("sys.argv", ["x/ttfb.py", *given])
    record = make_record("ttfb", load_settings({}, device="cpu"), torch.device("cpu"), {})
    assert record["command"] == "python -m bench.ttfb --keep bench/results --model model"


def test_record_names_what_its_figures_depend_on(tmp_path: Path) -> None:
    settings = load_settings({}, model_repo="/somewhere/else/my-model", device="cpu", model_dtype="float32")
    record = make_record("ttfb", settings, torch.device("cpu"), {"rtf": 0.1})
    write_record(tmp_path / "deep" / "one.json", record)
    (read,) = load(tmp_path / "deep")
    assert read == record
    assert (read["model"], read["dtype"], read["results"]) == ("my-model", "float32", {"rtf": 0.1})
    assert {"commit", "dirty", "date", "command", "environment", "settings"} <= set(read)
    assert "somewhere" not in json.dumps({key: value for key, value in read.items() if key != "command"})


def test_result_goes_where_it_was_asked_to() -> None:
    given = argparse.Namespace(model="some/repo", json=Path("a.json"), keep=None)
    assert result_path(given, "ttfb", "cpu") == Path("a.json")
    given.keep = Path("kept")
    assert result_path(given, "ttfb", "cuda", "-http") == Path("kept/ttfb-repo-cuda-http.json")
    assert result_path(argparse.Namespace(model="tiny", json=None, keep=None), "ttfb", "cpu") is None


def test_part_that_takes_too_long_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert not runner.run(["sh", "-c", f"sleep 60 > {pipe} & wait"], 0.5)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # returns only when the last writer has gone
    os.close(reader)


def test_part_is_done_when_it_ends_well() -> None:
    assert runner.run(["true"], 30.0)
    assert not runner.run(["false"], 30.0)


def test_deviation_that_is_not_a_number_breaks_its_bound() -> None:
    assert Check("x", 1, 0.1, 0.1).passed
    assert not Check("x", 1, 0.11, 0.1).passed
    assert not Check("x", 1, float("nan"), 0.1).passed


def a_record(bench: str, results: dict[str, Any]) -> dict[str, Any]:
    return {
        "bench": bench,
        "model": "tiny",
        "device_type": "cpu",
        "dtype": "float32",
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc123",
        "dirty": False,
        "environment": {"device": "Chip", "cpu": "Chip", "cpu_cores": 2, "torch": "2.13.0"},
        "results": results,
    }


RECORDS = [
    a_record("ttfb", {"via": "http", "ttfb": {"p50": 0.1234, "p95": 1.5}, "rtf": 0.1}),
    a_record("something else", {}),
    a_record(
        "throughput",
        {
            "via": "process",
            "client_buffer_s": 0.1,
            "closed": [
                {
                    "clients": 8,
                    "ttfb_p50_s": 0.2,
                    "ttfb_p95_s": 0.3,
                    "ttfb_p99_s": None,
                    "streams_with_underruns": 1,
                    "done": 20,
                    "audio_s_per_s": 12.345,
                    "lag_p99_ms": 2.0,
                }
            ],
            "compare": {"clients": 8, "ratio": 1.75, "ratio_by_round": [1.7, 1.8], "same_audio": True},
            "hangup": {"gone_after_p50_ms": 5.0, "gone_after_p99_ms": 9.0, "steps_after_max": 1},
        },
    ),
]


def test_table_is_put_between_the_markers_and_nothing_else_changes() -> None:
    text = "before\n<!-- bench:begin -->\nold figures\n<!-- bench:end -->\nafter\n"
    fresh = fill(text, RECORDS)
    assert fresh.startswith("before\n<!-- bench:begin -->\n")
    assert fresh.endswith("<!-- bench:end -->\nafter\n")
    assert "old figures" not in fresh
    on = "Chip, 2 cores, torch 2.13.0, float32, 2026-01-02, commit abc123"
    assert f"| tiny | {on} | at the socket | 123 ms / 1.50 s | – | 0.1 |" in fresh
    assert "| 8 | 200 ms / 300 ms / – | 1 of 20 | 12.3 | 2 ms |" in fresh
    assert "8 streams at once make **1.75** times the audio per second of one stream at a time" in fresh
    assert "works on for 5 ms (p50; p99 9 ms), at most 1 steps" in fresh
    assert fill(fresh, RECORDS) == fresh


def test_goals_are_held_against_what_was_measured_where_they_hold() -> None:
    loads = [{"encoding": "pcm", "core_percent_per_stream": 2.5, "lag_p99_at_most_ms": 5.0}]
    overhead = {**a_record("overhead", {"loads": loads}), "model": "fake"}
    found = {goal.name: (value, goal.met(value)) for _, goal, value in goals.rows([*RECORDS, overhead])}
    assert found == {
        "8 streams at once against one at a time, audio per second": (1.75, True),
        "server alone, of a core per real-time stream": (2.5, False),
        "server alone, event-loop lag with 64 streams, p99": (5.0, True),
    }


def test_goals_of_a_gpu_are_not_asked_of_other_devices() -> None:
    open_loop = [{"listeners": 64.0, "wait_p95_s": 0.02}, {"listeners": 128.0, "wait_p95_s": 0.5}]
    results = {"via": "process", "open": open_loop, "real_time_streams": 64.0, "recompiles": None}
    record = {**a_record("throughput", results), "model": "random-base", "device_type": "cuda"}
    found = {goal.name: goal.met(value) for _, goal, value in goals.rows([record])}
    assert found == {
        "real-time streams with p95 of the first byte in 400 ms and no stall": True,
        "wait of an arrival among up to 64 streams, p95": False,
    }
    assert not list(goals.rows([{**record, "device_type": "mps"}]))


def test_plots_are_named_as_they_are_drawn() -> None:
    text = fill("<!-- bench:begin plots -->\n<!-- bench:end -->\n", RECORDS)
    assert "](results/throughput-tiny-cpu.png)" in text


def test_stages_have_a_section_of_their_own() -> None:
    stage = {
        "stage": "step",
        "latents": 32,
        "streams": 1,
        "rows": 2,
        "ms": 7.0,
        "tflop_per_s": 0.1,
        "gbyte_per_s": 3.0,
        "limit_ms": 3.5,
        "bound": "compute",
        "gap": 2.0,
    }
    share = {"streams": 1, "text_s": 0.005, "prefix_s": 0.0, "step_s": 0.5, "decode_s": 0.25}
    results = {
        "ceilings": {"model": {"dtype": "float32", "tflop_per_s": 0.2, "gbyte_per_s": 30.0}},
        "stages": [stage],
        "utterance": [{**share, "audio_s": 11.9, "audio_s_per_s": 15.8}],
    }
    fresh = fill("<!-- bench:begin stages -->\n<!-- bench:end -->\n", [*RECORDS, a_record("profile", results)])
    assert "| step | 32 | 1 | 2 | 7 | 0.1 | 3 | 3.5 | compute | 2 |" in fresh
    assert "| 1 | 5 | 0 | 500 | 250 | 15.8 |" in fresh
    assert "at the socket" not in fresh


def test_file_without_markers_or_with_an_unknown_section_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- bench:begin"):
        fill("nothing here", RECORDS)
    with pytest.raises(ValueError, match="bench:begin speed: the sections are summary, stages, plots"):
        fill("<!-- bench:begin speed -->\n<!-- bench:end -->", RECORDS)


def test_plot_is_a_png(tmp_path: Path) -> None:
    rows = [{**RECORDS[2]["results"]["closed"][0], "clients": clients, "ttfb_p99_s": 0.4} for clients in (1, 8)]
    draw(a_record("throughput", {"via": "http", "closed": rows}), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_shown_in_three_digits() -> None:
    assert [show.number(value) for value in (1234.5, 12.345, 0.0123456, 7, None, "x")] == [
        "1234",
        "12.3",
        "0.0123",
        "7",
        "–",
        "x",
    ]
    assert [show.duration(value) for value in (0.0814, 0.9994, 1.0, None)] == ["81 ms", "999 ms", "1.00 s", "–"]
    assert show.columns([{"a": 1, "long": 2.0}, {"a": 10, "long": None}]) == " a  long\n 1     2\n10     –"
