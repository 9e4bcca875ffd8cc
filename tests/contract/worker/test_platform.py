"""The SDK's real loop against a stand-in for the platform: jobs are taken, streamed, stopped, several at a time."""

from __future__ import annotations

import base64
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract.worker.examples import run_example
from tests.contract.worker.hub import REPOSITORY, fill_cache
from tests.contract.worker.platform import Platform, Run
from tests.contract.worker.process import WorkerProcess
from tests.processes import ROOT, eventually

#: Few steps, as nobody listens.
FEW = {"num_steps": 2}
#: Minutes of work: whatever is seen while it runs is seen in the middle.
ENDLESS = {
    "text": "This sentence is one of very many that nobody is going to hear to the end. " * 50,
    "stream": True,
    "parameters": {"num_steps": 5},
}
SHORT = {"text": "Just a few words.", "stream": True, "parameters": {"seed": 1, **FEW}}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with Platform() as running:
        yield running


@pytest.fixture(scope="module")
def worker(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One worker for all tests, with the generator handler; at the end SIGTERM ends it cleanly."""
    home = tmp_path_factory.mktemp("home")  # as the platform has filled it beforehand
    fill_cache(home / "hub")
    settings = {
        **platform.environment,
        "AUDIO_VOICES_DIR": ROOT / "audio_prompts",
        "ECHO_MODEL_REPO": REPOSITORY,
        "HF_HOME": home,
        "ECHO_WARM": 1,
        "ECHO_WORKER_INLINE_AUDIO": 1,
        "ECHO_WORKER_JOBS": 2,
        "STREAM_HANDLER": 1,
    }
    with WorkerProcess(tmp_path_factory.mktemp("worker"), **settings) as process:
        process.wait_for_log("takes jobs")
        assert "warmed up in" in process.log
        yield process
        assert process.stop() == 0
        assert "Traceback" not in process.log


def done(platform: Platform, **job: Any) -> Run:
    run = platform.wait(platform.submit(**job))
    assert run.status == "COMPLETED", run
    return run


def audio(pieces: list[Any]) -> Any:
    data = b"".join(base64.b64decode(piece["audio_chunk"]) for piece in pieces if piece["status"] == "streaming")
    return np.frombuffer(data, "<i2") / 32768


def test_pieces_come_while_the_job_runs_and_stay_with_its_result(platform: Platform, worker: WorkerProcess) -> None:
    text = "Several sentences are spoken. " * 9
    run = platform.submit(text=text, stream=True, speaker_voice="tiny_anna.flac", parameters=FEW)
    platform.wait(run)
    assert run.statuses == {"IN_PROGRESS"}
    assert run.output == run.stream
    *pieces, last = run.stream
    assert [piece["chunk"] for piece in pieces] == list(range(1, len(pieces) + 1))
    assert (last["status"], last["total_chunks"]) == ("complete", len(pieces))
    assert max(run.sizes) < 1_000_000
    assert np.abs(audio(pieces)).max() > 0.05
    assert len(audio(pieces)) / 44_100 == pytest.approx(last["metadata"]["duration"], abs=0.01)


def test_the_stream_example_of_the_page(platform: Platform, worker: WorkerProcess, tmp_path: Path) -> None:
    said = run_example("A stream", "python", f"{platform.url}/v2/endpoint", tmp_path).split()
    assert said[0] == "COMPLETED"
    with wave.open(str(tmp_path / "stream.wav")) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(float(said[1]))
        assert float(said[1]) > 1


def test_a_job_without_stream_is_one_piece(platform: Platform, worker: WorkerProcess) -> None:
    run = done(platform, text="Just a few words.", parameters=FEW)
    (answer,) = run.output
    assert answer["status"] == "completed"
    assert answer["audio_base64"]


def test_a_wrong_job_fails_with_its_reason(platform: Platform, worker: WorkerProcess) -> None:
    run = platform.wait(platform.submit(text="x", speaker_voice="nobody.wav"))
    assert (run.status, run.error) == ("FAILED", "speaker_voice 'nobody.wav' not found.")


def test_a_stopped_job_stops_its_work_and_the_next_is_served(platform: Platform, worker: WorkerProcess) -> None:
    run = platform.submit(**ENDLESS)
    platform.wait_for_pieces(run, 1)
    before = worker.log.count(": cancelled SpeechStats(")
    platform.cancel(run)
    # One chunk is being spoken and one made ahead; both are given up.
    eventually(lambda: worker.log.count(": cancelled SpeechStats(") >= before + 1, "the end of the work")

    def silent() -> bool:
        count = len(run.stream)
        done(platform, **SHORT)
        return len(run.stream) == count

    eventually(silent, "the end of its pieces")  # the work that was given up may be that of the test before
    assert run.status == "CANCELLED"
    first = done(platform, **SHORT)
    assert np.array_equal(audio(first.stream), audio(done(platform, **SHORT).stream))


def test_jobs_are_spoken_at_the_same_time_up_to_the_limit(platform: Platform, worker: WorkerProcess) -> None:
    runs = [platform.submit(**ENDLESS) for _ in range(2)]
    for run in runs:
        platform.wait_for_pieces(run, 1)
    third = platform.submit(**SHORT)
    for run in runs:
        platform.wait_for_pieces(run, len(run.stream) + 1)
    assert third.status == "IN_QUEUE"
    platform.cancel(runs[0])
    platform.wait(third)
    assert third.status == "COMPLETED"
    platform.cancel(runs[1])
    assert platform.most_at_a_time == 2
    done(platform, **SHORT)


def test_nothing_is_left_in_the_folder_of_files(platform: Platform, worker: WorkerProcess, tmp_path: Path) -> None:
    done(platform, text="Just a few words.", parameters=FEW)
    output = next(line.split()[-1] for line in worker.log.splitlines() if "files in work" in line)
    # A job that was stopped may still have one.
    eventually(lambda: list(Path(output).iterdir()) == [], "an empty folder")
