"""The pure parts of the benchmarks: arithmetic, costs, records, tables. Nothing here is timed."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from websockets.asyncio.client import connect as ws_connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as ws_serve

from bench import (
    ROOT,
    compiling,
    golden,
    loadgen,
    parity,
    playback,
    record,
    report,
    roofline,
    serving,
    sockets,
    suite,
    targets,
    text,
)
from bench.engines import default_voice_of, fake_engine, known_to_the_server, reference_clip
from bench.loadgen import Load
from bench.playback import Arrival, Underruns, underruns
from bench.targets import ObservedEngine, Outcome, Response
from echo.model.autoencoder import RELEASED, Autoencoder
from echo.model.files.hub import locate
from echo.model.files.weights import shapes
from echo.model.network.config import ECHO_TTS_BASE
from echo.model.network.dit import EchoDiT
from echo.settings import Settings, load_settings
from echo.stream import FrameStream
from echo.types import SAMPLE_RATE, BlockPlan, BlockSpec, Utterance
from train.tiny.codec import CodecShape

GIGA = 1e9


def response(sent_at: float, pieces: list[Arrival], outcome: Outcome = Outcome.DONE) -> Response:
    return Response(sent_at=sent_at, arrivals=pieces, outcome=outcome)


# -- statistics


def test_percentiles_lie_between_neighbours() -> None:
    assert playback.percentiles(list(range(101))) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert playback.percentiles([1.0, 2.0]) == {"p50": 1.5, "p95": 1.95, "p99": 1.99}
    assert playback.percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_audio_that_is_always_there_in_time_has_no_underrun() -> None:
    assert underruns([]) == Underruns()
    assert underruns([Arrival(5.0, 1.0), Arrival(6.0, 1.0), Arrival(7.1, 1.0)]) == Underruns()


def test_underrun_lasts_from_the_end_of_the_audio_until_more_arrives() -> None:
    pieces = [Arrival(0.0, 1.0), Arrival(1.5, 1.0), Arrival(2.4, 0.2), Arrival(4.0, 1.0)]
    found = underruns(pieces, 0.1)
    # Plays 0.1 to 1.1, waits until 1.5, plays to 2.7, waits until 4.0.
    assert found.count == 2
    assert found.seconds == pytest.approx(0.4 + 1.3)


def test_larger_buffer_prevents_an_underrun() -> None:
    pieces = [Arrival(0.0, 1.0), Arrival(1.3, 1.0)]
    assert underruns(pieces, 0.1).count == 1
    assert underruns(pieces, 0.5).count == 0


def test_random_arrivals_repeat_with_their_seed_and_have_their_rate() -> None:
    times = loadgen.poisson_times(50.0, 100.0, seed=3)
    assert times == loadgen.poisson_times(50.0, 100.0, seed=3)
    assert times != loadgen.poisson_times(50.0, 100.0, seed=4)
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 100.0
    # Five standard deviations of a Poisson count of mean 5000.
    assert abs(len(times) - 5000) < 354


def test_quantile_of_a_histogram_is_the_upper_bound_of_its_bucket() -> None:
    buckets = {0.001: 90.0, 0.01: 98.0, 0.1: 100.0, float("inf"): 100.0}
    assert targets.histogram_quantile(buckets, 0.5) == 0.001
    assert targets.histogram_quantile(buckets, 0.99) == 0.1
    assert targets.histogram_quantile({0.1: 0.0, float("inf"): 0.0}, 0.99) is None


def test_summary_counts_audio_of_the_window_and_underruns_of_whole_streams() -> None:
    whole = response(0.0, [Arrival(1.0, 1.0), Arrival(4.0, 3.0)])
    open_at_the_end = response(2.0, [Arrival(5.0, 1.0), Arrival(20.0, 9.0)], Outcome.HUNG_UP)
    refused = response(3.0, [], Outcome.REFUSED)
    found = loadgen.summary([Load(2.0, 7.0, [whole, open_at_the_end, refused])])
    assert found["audio_s_per_s"] == pytest.approx((3.0 + 1.0) / 5.0)
    assert (found["requests"], found["done"], found["refused"], found["cut_off"]) == (3, 1, 1, 1)
    assert found["ttfb_p50_s"] == pytest.approx(2.0)
    assert (found["streams_with_underruns"], found["underruns"]) == (1, 1)
    assert found["underrun_s"] == pytest.approx(4.0 - 2.1)
    assert found["audio_s_per_request"] == 4.0


def test_summary_of_several_loads_does_not_count_the_time_between() -> None:
    loads = [
        Load(0.0, 1.0, [response(0.0, [Arrival(0.5, 2.0)])]),
        Load(50.0, 51.0, [response(50.0, [Arrival(50.5, 4.0)])]),
    ]
    assert loadgen.summary(loads)["audio_s_per_s"] == 3.0


def test_stream_is_real_time_while_all_start_soon_and_have_no_underrun() -> None:
    good = {"listeners": 8.0, "requests": 9, "done": 9, "ttfb_p95_s": 0.39, "underruns": 0}
    late, gap = {**good, "listeners": 16.0, "ttfb_p95_s": 0.41}, {**good, "listeners": 32.0, "underruns": 1}
    refused, empty = {**good, "listeners": 64.0, "requests": 10}, {**good, "listeners": 128.0, "ttfb_p95_s": None}
    assert serving.real_time_streams([good, late, gap, refused, empty]) == 8.0
    assert serving.real_time_streams([late]) is None


def test_ratio_is_that_of_the_medians_and_given_by_round() -> None:
    def load(seconds: float) -> Load:
        return Load(0.0, seconds, [response(0.0, [Arrival(0.5, 6.0)])])

    found = serving.ratio({"together": [load(2), load(3), load(1)], "alone": [load(4), load(4), load(4)]})
    assert found["together_audio_s_per_s"] == [3.0, 2.0, 6.0]
    assert (found["ratio"], found["ratio_by_round"]) == (2.0, [2.0, 1.333, 4.0])


def test_load_in_which_a_request_failed_has_no_rate() -> None:
    with pytest.raises(RuntimeError, match="refused"):
        serving.audio_rate(Load(0.0, 1.0, [response(0.0, [], Outcome.REFUSED)]))


def test_audio_is_the_same_when_its_bytes_are_in_whatever_order_requests_end() -> None:
    def load(*answers: bytes) -> Load:
        made = Load(0.0, 1.0, [response(0.0, []) for _ in answers])
        for one, answer in zip(made.responses, answers, strict=True):
            one.add(answer)
        return made

    assert serving.same_audio([load(b"ab", b"cd"), load(b"cd", b"ab")])
    assert not serving.same_audio([load(b"ab", b"cd"), load(b"ab", b"ce")])


# -- parity


def test_difference_is_the_largest_sample_and_the_relative_rms() -> None:
    expected = np.asarray([0.3, -0.4, 0.3, -0.4], np.float32)
    assert parity.difference(expected, expected) == (0.0, 0.0)
    assert parity.difference(expected * 0.9, expected) == pytest.approx((0.04, 0.1))
    assert parity.difference(expected[:3], expected) == (float("inf"), float("inf"))


def test_fake_speaks_the_same_alone_and_among_others() -> None:
    plan = BlockPlan(blocks=(BlockSpec(size=4, steps=1), BlockSpec(size=4, steps=1)))
    checks = parity.batch_checks(fake_engine(paced=False), plan, torch.float32)
    assert [(check.deviation, check.bound, check.passed) for check in checks] == [(0.0, 0.0, True)] * 2


def test_deviation_that_is_not_a_number_breaks_its_bound() -> None:
    assert parity.Check("x", 1, 0.1, 0.1).passed
    assert not parity.Check("x", 1, 0.11, 0.1).passed
    assert not parity.Check("x", 1, float("nan"), 0.1).passed


def test_one_deviation_that_is_not_a_number_among_others_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([(0.0, 0.0), (float("nan"), float("nan"))])
    monkeypatch.setattr(parity, "difference", lambda audio, expected: next(found))
    plan = BlockPlan(blocks=(BlockSpec(size=4, steps=1),))
    assert not any(check.passed for check in parity.batch_checks(fake_engine(paced=False), plan, torch.float32))
    nothing = torch.full((1,), torch.nan)
    monkeypatch.setattr(golden, "sample_blockwise", lambda *arguments, **options: nothing)
    assert not golden.Golden(torch.device("cpu")).sampler("oneshot").passed


# -- roofline


@pytest.mark.parametrize(
    ("size", "prefix", "patches", "gflop"),
    [(32, 0, 53, 89.1), (128, 8, 160, 361.9), (480, 40, 53, 1383.2), (640, 0, 160, 1872.8)],
)
def test_operations_of_a_step_of_the_released_model(size: int, prefix: int, patches: int, gflop: float) -> None:
    # Published counts less the 0.34 GFLOP of the modulation, which a schedule computes once.
    one = roofline.step(ECHO_TTS_BASE, size, [prefix + 128 + patches], 2)
    assert one.flops / GIGA == pytest.approx(gflop, abs=0.1)
    three = roofline.step(ECHO_TTS_BASE, size, [prefix + 128 + patches] * 3, 2)
    assert three.flops == pytest.approx(3 * one.flops)


def test_operations_of_the_encoders_of_the_released_model() -> None:
    assert roofline.text_encoder(ECHO_TTS_BASE, 128, 2).flops / GIGA == pytest.approx(76 + 32, rel=0.01)
    assert roofline.text_encoder(ECHO_TTS_BASE, 768, 2).flops / GIGA == pytest.approx(493 + 193, rel=0.01)
    assert roofline.latent_encoder(ECHO_TTS_BASE, 160, 2).flops / GIGA == pytest.approx(96 + 40, rel=0.01)
    assert roofline.latent_encoder(ECHO_TTS_BASE, 1600, 2).flops / GIGA == pytest.approx(1124 + 403, rel=0.01)


def test_operations_of_the_released_autoencoder() -> None:
    assert roofline.decode(RELEASED, 1, 4).flops / GIGA == pytest.approx(6.76, rel=0.01)
    assert roofline.decode(RELEASED, 640, 4).flops / GIGA == pytest.approx(4329, rel=0.01)
    assert roofline.encode(RELEASED, 640, 4).flops / GIGA / 640 == pytest.approx(3.57, rel=0.01)


def test_weights_of_a_step_are_those_of_the_modules_it_runs() -> None:
    config = shapes(locate("tiny").config)[0]
    model = EchoDiT(config)
    parts = ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "attention.gate", "mlp")
    modules = [model.get_submodule(f"blocks.{i}.{part}") for i in range(config.num_layers) for part in parts]
    expected = sum(parameter.numel() for module in modules for parameter in module.parameters())
    expected += model.in_proj.weight.numel() + model.out_proj.weight.numel()
    assert roofline.dense_weights(config) == expected


def test_bytes_of_decoding_are_those_of_the_decoding_modules() -> None:
    config = CodecShape().config()
    autoencoder = Autoencoder(config)
    quantizer = autoencoder.quantizer
    modules = (quantizer.post_module, quantizer.upsample, autoencoder.decoder)
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    assert roofline.decode(config, 1, 4).bytes / 4 == pytest.approx(parameters, rel=0.01)  # less norms and biases


def test_prefix_after_others_costs_more_attention_and_nothing_else() -> None:
    first, later = (roofline.latent_encoder(ECHO_TTS_BASE, 8, 2, past=past) for past in (0, 100))
    layers, width = ECHO_TTS_BASE.speaker_num_layers, ECHO_TTS_BASE.speaker_model_size
    assert later.flops - first.flops == layers * 4 * 8 * 100 * width
    assert later.bytes - first.bytes == layers * 2 * 100 * width * 2


def test_limit_is_the_slower_of_computing_and_moving() -> None:
    ceilings = roofline.Ceilings("float32", tflop_per_s=2.0, gbyte_per_s=10.0)
    assert ceilings.limit(4e12, 1e9) == (2.0, "compute")
    assert ceilings.limit(1e9, 50e9) == (5.0, "memory")
    assert roofline.gap(3.0, 2.0) == 1.5
    assert roofline.gap(3.0, 0.0) is None


# -- targets and engines


def test_only_models_of_the_benchmarks_need_their_own_server() -> None:
    names = ("tiny", "some/repository", "random-base", "fake")
    assert [known_to_the_server(name) for name in names] == [True, True, False, False]


def test_observed_engine_reports_its_streams_and_is_otherwise_the_engine() -> None:
    engine, reported = fake_engine(paced=False), list[tuple[str, FrameStream]]()
    observed = ObservedEngine(engine)
    observed.on_stream = lambda utterance, stream: reported.append((utterance.text, stream))
    stream = observed.speak(Utterance(text="Hello.", plan=BlockPlan(blocks=(BlockSpec(size=4, steps=1),)), seed=1))
    assert reported == [("Hello.", stream)]
    assert observed.info is engine.info


def test_reference_is_as_long_as_asked_and_becomes_the_default_voice() -> None:
    assert len(reference_clip(12.5)) == 12.5 * SAMPLE_RATE
    before = load_settings({})
    with default_voice_of(before, None) as settings:
        assert settings is before
    with default_voice_of(before, 2.0) as settings:
        (clip,) = settings.voice_folders[0].iterdir()
        assert clip.stem == settings.default_voice
        assert clip.stat().st_size == 44 + 2 * 2 * SAMPLE_RATE


def test_settings_survive_the_way_through_the_environment() -> None:
    settings = load_settings({}, model_repo="random-tiny", max_queue=64, chunking=False, voices_dir="a,b")
    environment = targets.as_environment(settings)
    assert environment["ECHO_CHUNKING"] == "0"
    assert load_settings(environment) == settings
    assert targets.as_environment(Settings()) == {}


# -- records


def test_record_names_its_command_without_this_machines_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--keep", str(ROOT / "bench" / "results"), "--model", "/home/me/model"]
    monkeypatch.setattr("sys.argv", ["x/serving.py", *given])
    made = record.make_record("ttfb", load_settings({}, device="cpu"), torch.device("cpu"))
    assert made["command"] == "python -m bench.serving --keep bench/results --model model"


def test_record_names_what_its_figures_depend_on(tmp_path: Path) -> None:
    settings = load_settings({}, model_repo="/somewhere/else/my-model", device="cpu", model_dtype="float32")
    made = record.make_record("ttfb", settings, torch.device("cpu"), {"rtf": 0.1})
    record.write_record(tmp_path / "deep" / "one.json", made)
    (read,) = record.read_records(tmp_path / "deep")
    assert read == made
    assert (read["model"], read["dtype"], read["results"]) == ("my-model", "float32", {"rtf": 0.1})
    assert {"commit", "dirty", "date", "command", "environment", "settings"} <= set(read)
    assert "somewhere" not in json.dumps({key: value for key, value in read.items() if key != "command"})


def test_records_go_where_they_were_asked_to(tmp_path: Path) -> None:
    records = [{"bench": "ttfb", "device_type": "cuda"}, {"bench": "throughput", "device_type": "cuda"}]

    def save(count: int, json: Path | None = None, keep: Path | None = None) -> None:
        record.save(records[:count], argparse.Namespace(model="some/repo", json=json, keep=keep), "-http")

    save(2)
    save(1, json=tmp_path / "one.json")
    save(2, json=tmp_path / "two.json")
    save(2, keep=tmp_path / "kept")
    written = {path.name: json.loads(path.read_text()) for path in tmp_path.rglob("*.json")}
    assert written == {
        "one.json": records[0],
        "two.json": records,
        "ttfb-repo-cuda-http.json": records[0],
        "throughput-repo-cuda-http.json": records[1],
    }


def test_figures_have_three_digits() -> None:
    values = (1234.5, 12.345, 0.0123456, 7, None, "x")
    assert [text.number(value) for value in values] == ["1234", "12.3", "0.0123", "7", "–", "x"]
    assert [text.duration(value) for value in (0.0814, 0.9994, 1.0, None)] == ["81 ms", "999 ms", "1.00 s", "–"]
    assert text.columns([{"a": 1, "long": 2.0}, {"a": 10, "long": None}]) == " a  long\n 1     2\n10     –"


# -- suite


def test_part_that_takes_too_long_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert not suite.run(["sh", "-c", f"sleep 60 > {pipe} & wait"], 0.5)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # returns only when the last writer has gone
    os.close(reader)


def test_part_is_done_when_it_ends_well() -> None:
    assert suite.run(["true"], 30.0)
    assert not suite.run(["false"], 30.0)


def test_parity_does_not_compile_and_nothing_does_when_compiling_took_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, bool]] = []

    def run(command: list[str], seconds: float, variables: dict[str, str]) -> bool:
        name = command[2].removeprefix("bench.")
        ran.append((name, variables.get("ECHO_COMPILE") != "0"))
        return name != "compiling" or good

    monkeypatch.setattr(suite, "run", run)
    good = True
    assert suite.run_all(suite.gpu_parts(), [], tmp_path, 9.0) == []
    assert ran == [("parity", False), ("compiling", True), ("profile", True), ("serving", True), ("serving", True)]
    assert re.search(r"^-- compiling: done after \d+ s$", capsys.readouterr().out, re.MULTILINE)
    ran.clear()
    good = False
    assert suite.run_all(suite.gpu_parts(), [], tmp_path, 9.0) == ["compiling"]
    assert ran == [("parity", False), ("compiling", True), ("profile", False), ("serving", False), ("serving", False)]
    assert "s, uncompiled)" in capsys.readouterr().out


def test_a_part_sees_the_variables_that_are_set_for_it() -> None:
    assert suite.run(["sh", "-c", 'test "$ECHO_COMPILE" = 0'], 30.0, {"ECHO_COMPILE": "0"})


def test_nothing_is_compiled_where_it_is_turned_off_or_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiling.measure(load_settings({}, model_repo="random-tiny", device="cpu"))
    assert found == {"obstacle": "the device is cpu, not cuda"}
    monkeypatch.setattr(compiling, "obstacle", lambda device: None)
    settings = load_settings({}, model_repo="random-tiny", device="cpu", compile=False, compile_ae=False)
    assert compiling.measure(settings) == {"obstacle": "ECHO_COMPILE and ECHO_COMPILE_AE are 0"}


# -- report


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
    text = "before\n<!-- bench:begin tables -->\nold figures\n<!-- bench:end -->\nafter\n"
    fresh = report.fill(text, RECORDS)
    assert fresh.startswith("before\n<!-- bench:begin tables -->\n")
    assert fresh.endswith("<!-- bench:end -->\nafter\n")
    assert "old figures" not in fresh
    on = "Chip, 2 cores, torch 2.13.0, float32, 2026-01-02, commit abc123"
    assert f"| tiny | {on} | at the socket | 123 ms / 1.50 s | – | 0.1 |" in fresh
    assert "| 8 | 200 ms / 300 ms / – | 1 of 20 | 12.3 | 2 ms |" in fresh
    assert "8 streams at once make **1.75** times the audio per second of one stream at a time" in fresh
    assert "works on for 5 ms (p50; p99 9 ms) and at most 1 steps" in fresh
    assert report.fill(fresh, RECORDS) == fresh


def test_targets_are_compared_with_what_was_measured() -> None:
    loads = [{"encoding": "pcm", "core_percent_per_stream": 2.5, "lag_p99_at_most_ms": 5.0}]
    overhead = {**a_record("overhead", {"loads": loads}), "model": "fake"}
    found = {
        target.goal.name: (value, target.goal.met(value))
        for _, target, value in report.measured_targets([*RECORDS, overhead])
    }
    assert found == {
        "8 streams at once against one at a time, audio per second": (1.75, True),
        "server alone, of a core per real-time stream": (2.5, False),
        "server alone, event-loop lag with 64 streams, p99": (5.0, True),
    }


def test_targets_of_a_gpu_are_for_gpus_only() -> None:
    open_loop = [{"listeners": 64.0, "wait_p95_s": 0.02}, {"listeners": 128.0, "wait_p95_s": 0.5}]
    results = {"via": "process", "open": open_loop, "real_time_streams": 128.0, "recompiles": None}
    record = {**a_record("throughput", results), "model": "random-base", "device_type": "cuda"}
    found = {target.goal.name: target.goal.met(value) for _, target, value in report.measured_targets([record])}
    assert found == {
        "real-time streams with p95 of the first byte within 400 ms and no underrun": True,
        "wait of a request beside up to 64 streams, p95": False,
    }
    assert not list(report.measured_targets([{**record, "device_type": "mps"}]))


def test_goals_of_a_gpu_stand_beside_its_figures() -> None:
    results = {"via": "process", "ttfb": {"p50": 0.03, "p95": 0.04}, "engine_ttfb": {"p50": 0.0251, "p95": 0.03}}
    record = {**a_record("ttfb", {**results, "rtf": 0.01}), "model": "random-base", "device_type": "cuda"}
    socket = {**record, "results": {"via": "http", "by_length": [{"text": "medium", "ttfb_p50_s": 0.04}]}}
    rows = report._targets([record, socket])[1].splitlines()[2:]
    assert rows == [
        "| first frame in the engine, one stream, p50 | cuda, in the process | ≤ 25 ms | 25.1 ms | no |",
        "| first byte at the socket, 100 characters, p50 | cuda, at the socket | ≤ 40 ms | 40 ms | yes |",
        "| real-time factor, one stream | cuda, in the process | ≤ 0.01 | 0.01 | yes |",
    ]


def test_figures_are_a_handful_and_measured_at_the_socket() -> None:
    closed = [{"clients": 1, "audio_s_per_s": 8.0}, {"clients": 8, "audio_s_per_s": 14.32}]
    results = {"via": "http", "closed": closed, "compare": {"clients": 8, "ratio": 1.62}, "real_time_streams": 12}
    fresh = report.figures([*RECORDS, a_record("throughput", results)])
    assert "The embedded model on Chip, 2 cores, float32, measured at the socket" in fresh
    assert "| first byte of audio, one stream, p50 | 123 ms |" in fresh
    assert "| time per second of audio, one stream | 100 ms |" in fresh
    assert "| audio made per second, 8 streams at once | 14.3 s |" in fresh
    assert "| gain of 8 streams at once over one at a time | 1.62× |" in fresh
    assert "no buffer underrun | 12 |" in fresh


def test_what_compiling_takes_is_told_where_something_is_compiled() -> None:
    first = a_record("compiling", {"obstacle": None, "cached": False, "seconds": 96.4})
    later = a_record("compiling", {"obstacle": None, "cached": True, "seconds": 12.0})
    made = report.tables([first, later, a_record("compiling", {"obstacle": "no compiler"})])
    assert "takes 96.40 s.\n" in made
    assert "takes 12.00 s, with what an earlier start has compiled." in made
    assert made.count("Compiling and capturing **tiny**") == 2


def test_plots_are_named_as_they_are_drawn() -> None:
    text = report.fill("<!-- bench:begin plots -->\n<!-- bench:end -->\n", RECORDS)
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
    fresh = report.fill("<!-- bench:begin stages -->\n<!-- bench:end -->\n", [*RECORDS, a_record("profile", results)])
    assert "| step | 32 | 1 | 2 | 7 | 0.1 | 3 | 3.5 | compute | 2 |" in fresh
    assert "| 1 | 5 | 0 | 500 | 250 | 15.8 |" in fresh
    assert "at the socket" not in fresh


def test_file_without_markers_or_with_an_unknown_section_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- bench:begin"):
        report.fill("nothing here", RECORDS)
    with pytest.raises(ValueError, match="bench:begin speed: the sections are figures, tables, stages, plots"):
        report.fill("<!-- bench:begin speed -->\n<!-- bench:end -->", RECORDS)


@pytest.mark.slow
def test_plot_is_a_png(tmp_path: Path) -> None:
    rows = [{**RECORDS[2]["results"]["closed"][0], "clients": clients, "ttfb_p99_s": 0.4} for clients in (1, 8)]
    listeners = [{**row, "listeners": row["clients"], "underruns": n} for n, row in enumerate(rows)]
    report.draw(a_record("throughput", {"via": "http", "closed": rows, "open": listeners}), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# -- sockets


def test_tokens_are_the_text_and_the_first_clause_becomes_speakable_with_one_of_them() -> None:
    text = "Wait a moment, I will ask somebody."
    tokens = sockets.tokens_of(text)
    assert "".join(tokens) == text
    assert all(1 <= len(token.strip()) <= 4 for token in tokens)
    first = sockets.first_speakable(tokens)
    assert "".join(tokens[: first + 1]).startswith("Wait a moment, ")
    assert not "".join(tokens[:first]).startswith("Wait a moment, ")
    assert sockets.first_speakable(sockets.tokens_of("No clause ends here")) == 4


def test_turns_differ_and_repeat() -> None:
    assert sockets.text_of(0) == sockets.text_of(2) != sockets.text_of(1)


async def test_a_turn_is_timed_from_its_first_clause() -> None:
    """Against a server that answers with a tenth of a second of audio to the first speakable token."""
    text = "Wait, I will ask."
    first = sockets.first_speakable(sockets.tokens_of(text))

    async def serve(socket: ServerConnection) -> None:
        count = 0
        async for message in socket:
            event = json.loads(message)
            if event["type"] == "input.text":
                count += 1
            if count == first + 1:
                await socket.send(bytes(8820))
            if event["type"] == "input.done":
                await socket.send(json.dumps({"type": "session.done"}))

    async with ws_serve(serve, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with ws_connect(f"ws://127.0.0.1:{port}", proxy=None) as socket:
            response = await sockets.say(socket, text, tokens_per_s=1000)
    assert response.outcome is Outcome.DONE
    assert response.audio_s == pytest.approx(0.1)
    assert response.first_byte_s is not None
    assert response.first_byte_s >= 0


def test_conversations_have_a_table() -> None:
    results = {
        "sockets": 32,
        "requests": 64,
        "first_audio_p50_s": 0.2,
        "first_audio_p95_s": 0.4,
        "first_audio_p99_s": 1.5,
    }
    results |= {"streams_with_underruns": 3, "done": 64, "audio_s_per_s": 14.1, "lag_p99_ms": 5, "tokens_per_s": 15.0}
    settings = load_settings({}, model_repo="tiny")
    found = report.tables([record.make_record("sockets", settings, torch.device("cpu"), results)])
    assert "| 32 | 64 | 200 ms / 400 ms / 1.50 s | 3 of 64 | 14.1 | 5 ms |" in found
