"""An engine's process that crashes, hangs or talks nonsense costs the jobs in it, and nothing else."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from echo.engines.remote.engine import RemoteEngine
from echo.engines.remote.health import RemoteRules
from echo.errors import EngineFailed, LoadError, OutOfMemory, Overloaded
from echo.settings import engine_environment
from tests.unit.engines.remote.processes import clip, config, level, running, utterance, wait_until

pytestmark = pytest.mark.slow

#: Found by what the process sends or that it ends; by its silence; by its making no step.
AT_ONCE = RemoteRules(backoff=0.05)
SILENT = RemoteRules(backoff=0.05, ping=0.2, pong=4.0)
STALLED = RemoteRules(backoff=0.05, ping=0.2, stall=4.0)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        *((text, AT_ONCE) for text in ("die", "exit", "noise", "huge")),
        *((text, SILENT) for text in ("freeze", "half")),
        ("hang", STALLED),
    ],
)
def test_only_the_jobs_in_the_process_fail(text: str, rules: RemoteRules, caplog: pytest.LogCaptureFixture) -> None:
    with running(rules=rules) as engine:
        pid = engine.pid
        voice = engine.encode_voice(clip()).result()
        streams = [engine.speak(utterance(each, voice)) for each in (f"one {text} two", "voice", "voice voice")]
        next(streams[0])
        with pytest.raises(EngineFailed, match="Try again") as lost:
            list(streams[0])
        assert lost.value.retry_after_s  # else the client would be told not to
        assert [len(list(stream)) for stream in streams[1:]] == [1, 2]
        assert engine.pid != pid
        assert engine.available()
        assert level(engine, "voice", voice) == pytest.approx(0.25)
    assert "the engine's process has failed" in caplog.text


def test_a_server_that_stood_still_does_not_take_its_engine_for_stuck() -> None:
    rules = RemoteRules(ping=0.05, pong=4.0, stall=4.0)
    with running(rules=rules, step_s=0.05) as engine:
        pid = engine.pid
        stream = engine.speak(utterance("word " * 20))
        next(stream)
        engine._supervisor._clock = lambda: time.monotonic() + 10.0
        assert len(list(stream)) == 19
        assert engine.pid == pid


def test_a_killed_process_is_replaced_also_when_it_was_idle() -> None:
    with running(rules=SILENT) as engine:
        pid = engine.pid
        assert pid is not None
        wait_until(lambda: (engine.workload().process_bytes or 0) > 1_000_000)
        assert engine.workload().restarts == 0
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: engine.pid not in (None, pid) and engine.available())
        assert level(engine, "one") == 0.5
        assert engine.workload().restarts == 1


def test_memory_that_is_exhausted_twice_in_a_row_costs_the_process() -> None:
    with running() as engine:
        pid = engine.pid
        for _ in range(2):
            with pytest.raises(OutOfMemory):
                list(engine.speak(utterance("memory")))
        assert level(engine, "one") == 0.5
        assert engine.workload().out_of_memory == 2
        assert engine.pid != pid


def test_health_follows_the_process_and_requests_wait_for_the_next() -> None:
    with running(rules=RemoteRules(backoff=3600.0, backoff_max=3600.0)) as engine:
        list(engine.speak(utterance("one")))
        with pytest.raises(EngineFailed):
            list(engine.speak(utterance("die")))
        assert not engine.available()
        assert engine.healthy()  # the server can go on
        assert engine.queue_wait() > 0
        stream = engine.speak(utterance("one"))
        engine._supervisor._retry_at = time.monotonic()  # the wait is over
        assert next(stream).samples[0] == 0.5
        assert engine.available()


def test_restarts_come_after_longer_and_longer_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rules = RemoteRules(backoff=0.05, backoff_max=0.2, patience=2.0)
    with running(rules=rules, fail_load=str(tmp_path / "loaded")) as engine:
        with pytest.raises(EngineFailed):
            list(engine.speak(utterance("die")))
        with pytest.raises(Overloaded) as caught:
            list(engine.speak(utterance("one")))
        assert caught.value.retry_after_s is not None
        wait_until(lambda: caplog.text.count("it starts again in") >= 5)
        waits = [record.args[-1] for record in caplog.records if "starts again" in record.msg and record.args]
        assert waits[:5] == [0.05, 0.1, 0.2, 0.2, 0.2]
        assert not engine.available()
        assert "the weights are broken" in caplog.text
        (tmp_path / "loaded").unlink()  # the operator has mended it
        wait_until(engine.available)
        assert level(engine, "one") == 0.5


def test_an_engine_that_cannot_be_loaded_is_one_line_and_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LoadError, match=r"^fake: the engine could not be loaded .*: RuntimeError: no weights here$"):
        RemoteEngine(config(options={"fail_load": "always"}), environment=engine_environment())
    assert "WARNING the weights are broken" in caplog.text


def test_an_interpreter_that_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    broken = config()
    with pytest.raises(LoadError, match="its process cannot be started"):
        RemoteEngine(
            type(broken)(name="fake", table=broken.table, command=(str(tmp_path),), adapter=broken.adapter),
            environment=engine_environment(),
        )


def test_an_idle_process_is_stopped_and_started_again_with_the_next_request() -> None:
    with running(rules=RemoteRules(idle_stop=0.3)) as engine:
        pid = engine.pid
        wait_until(lambda: engine.pid is None)
        assert engine.available()
        assert engine.queue_wait() > 0
        assert level(engine, "one") == 0.5
        assert engine.pid != pid


def test_a_busy_process_is_never_stopped_as_idle() -> None:
    with running(rules=RemoteRules(idle_stop=0.3), step_s=0.1) as engine:
        pids = [engine.pid for _ in engine.speak(utterance("word " * 15))]
        assert len(pids) == 15
        assert (
            len({pid for pid in pids if pid is not None}) <= 1
        )  # None: stopped after its last word, before it was read


def test_what_the_engine_prints_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running() as engine:
        list(engine.speak(utterance("print flood")))
    assert "lines are left out" in caplog.text
    lines = [record for record in caplog.records if record.getMessage().startswith("fake: line ")]
    assert 1 <= len(lines) <= 200  # of 1000, which take a second or a few on a busy machine
    library = next(record for record in caplog.records if "from the library" in record.getMessage())
    assert (library.levelno, library.getMessage()) == (logging.WARNING, "fake: WARNING from the library")


def test_a_download_is_told_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo.engines.remote.link._BAR_S", 3600.0)
    caplog.set_level(logging.DEBUG)
    with running(download=[0, 1, 35]):
        wait_until(lambda: "35%" in caplog.text)
    bars = [(r.levelno, r.getMessage()) for r in caplog.records if "%|" in r.getMessage()]
    assert bars[0] == (logging.INFO, "fake: model.safetensors:   0%|###      | 745M/2.13G [00:10<00:20]")
    assert [text[:33] for _, text in bars] == [f"fake: model.safetensors: {n:3}%|###" for n in (0, 1, 35)]
    assert bars[1][0] == logging.DEBUG


def test_the_process_gets_a_folder_of_its_own_and_no_secrets(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ECHO_API_KEYS", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with running() as engine:
        list(engine.speak(utterance("environment")))
        wait_until(lambda: "ENVIRONMENT" in caplog.text)
    line = next(record.getMessage() for record in caplog.records if "ENVIRONMENT" in record.getMessage())
    assert "HF_HUB_OFFLINE" in line
    assert "TQDM_POSITION" in line  # without it the hub's downloads are silent where there is no terminal
    assert "ECHO_API_KEYS" not in line
    assert "AWS" not in line
    folder = line.rsplit("] ", 1)[1]
    assert "echo-fake-" in folder
    assert not Path(folder).exists()  # closed
