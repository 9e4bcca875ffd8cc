"""Books over HTTP: queued, followed, paused, continued by another process, fetched."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from echo.engines.fake import FakeScript
from echo.errors import DeviceStopped
from echo.jobs.book import chapters
from echo.jobs.jobs import JobRules, Jobs
from echo.jobs.record import JobRecord, JobSpec
from echo.jobs.remote import UploadFailed
from echo.jobs.store import JobStore
from echo.stream import FrameStream
from echo.types import Encoding, Utterance
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until

BOOK = "# One\n\nIt rained all day.\n\n# Two\n\nThen it stopped, and they went out.\n"
JOBS = "/v1/audio/jobs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def books(serve: Serve, folder: Path) -> Served:
    return serve(jobs_dir=folder)


def create(server: Served, **fields: Any) -> dict[str, Any]:
    body = {"input": BOOK, "text_format": "markdown", "voice": "bob", "seed": 7, "response_format": "flac", **fields}
    answer = httpx.post(server.url + JOBS, json=body)
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{JOBS}/{made['id']}"
    return made


def get(server: Served, job: dict[str, Any], path: str = "") -> Any:
    return httpx.get(f"{server.url}{JOBS}/{job['id']}{path}").json()


def do(server: Served, job: dict[str, Any], what: str) -> httpx.Response:
    return httpx.post(f"{server.url}{JOBS}/{job['id']}/{what}")


def until(server: Served, job: dict[str, Any], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    wait_until(lambda: holds(get(server, job)))
    now: dict[str, Any] = get(server, job)
    return now


def completed(job: dict[str, Any]) -> bool:
    assert job["error"] is None
    return bool(job["status"] == "completed")


def test_a_book_is_spoken_chapter_by_chapter(books: Served) -> None:
    job = create(books)
    assert job["title"] == "One"
    assert [chapter["title"] for chapter in job["chapters"]] == ["One", "Two"]
    done = until(books, job, completed)
    assert done["progress"]["pieces"] == done["progress"]["total_pieces"] == 2
    assert done["progress"]["characters"] == done["progress"]["total_characters"]
    lengths = []
    for url in (*(chapter["url"] for chapter in done["chapters"]), done["url"]):
        answer = httpx.get(books.url + url)
        assert answer.headers["content-type"] == "audio/flac"
        lengths.append(soundfile.info(BytesIO(answer.content)).frames)
    assert lengths[2] == lengths[0] + lengths[1]
    assert sum(lengths[:2]) / 44_100 == pytest.approx(done["progress"]["audio_seconds"], abs=0.01)
    part = httpx.get(books.url + done["url"], headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"fLaC")
    assert {utterance.voice is not None for utterance in books.script.spoken} == {True}
    assert [job["id"] for job in httpx.get(books.url + JOBS).json()["data"]] == [job["id"]]


def test_a_file_is_uploaded_as_a_form(books: Served) -> None:
    files = {"file": ("sea.md", BOOK.encode(), "text/markdown")}
    fields = {"voice": "anna", "response_format": "wav", "speed": "2", "title": "12"}
    answer = httpx.post(books.url + JOBS, files=files, data=fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["title"] == "12"
    assert len(answer.json()["chapters"]) == 2
    until(books, answer.json(), completed)


def test_events_tell_how_far_it_is(books: Served) -> None:
    job = create(books)
    with httpx.stream("GET", f"{books.url}{JOBS}/{job['id']}/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[0]["id"] == job["id"]
    assert events[-1]["status"] == "completed"
    page = httpx.get(f"{books.url}/metrics").text.splitlines()
    assert 'echo_jobs{status="completed"} 1.0' in page
    assert 'echo_jobs{status="failed"} 0.0' in page
    pieces = [event["progress"]["pieces"] for event in events]
    assert pieces == sorted(pieces)


def test_whoever_follows_is_let_go_when_the_server_shuts_down(serve: Serve, folder: Path) -> None:
    books = serve(jobs_dir=folder, drain_s=0.0)
    books.script.render = gate = Gate()
    job = create(books)
    with httpx.stream("GET", f"{books.url}{JOBS}/{job['id']}/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: audio.job"
        drained = httpx.post(f"{books.url}/admin/drain")  # a job holds up no end
        assert drained.json() == {"status": "drained", "open_streams": 0}
        assert "data: " in "".join(lines)
    assert httpx.post(books.url + JOBS, json={"input": BOOK}).status_code == 503
    gate.open()


def test_a_paused_job_goes_on_where_it_was(books: Served) -> None:
    gate = Gate()
    books.script.render = gate
    job = create(books, response_format="wav")
    assert gate.reached.wait(10)
    assert do(books, job, "pause").json()["status"] == "paused"
    gate.open()
    books.engine.script = FakeScript()
    assert do(books, job, "resume").json()["status"] in ("queued", "running")
    until(books, job, completed)
    assert do(books, job, "pause").status_code == 409


def test_another_process_goes_on_with_what_there_is(serve: Serve, folder: Path) -> None:
    first = serve(jobs_dir=folder, jobs_parallel=1)
    gate = Gate()

    def render(utterance: Any, block: int, count: int) -> Any:
        return gate(utterance, block, count) if "stopped" in utterance.text else gate.__class__(99)(utterance, 0, count)

    first.script.render = render
    job = create(first)
    assert gate.reached.wait(10)
    wait_until(lambda: get(first, job)["chapters"][0]["url"] is not None)
    # The first server still waits; the second finds the folder as a crash would have left it.
    second = serve(jobs_dir=folder)
    done = until(second, job, completed)
    assert [utterance.text for utterance in second.script.spoken if "rained" in utterance.text] == []
    assert done["chapters"][0]["audio_seconds"] > 0
    do(first, job, "cancel")
    gate.open()


def test_a_failure_that_passes_is_tried_again_and_one_that_stays_can_be_resumed(
    books: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo.jobs.jobs._PAUSE_S", 0.01)
    books.script.fail_before = True
    job = create(books)
    failed = until(books, job, lambda now: now["status"] == "failed")
    assert failed["error"] == {"code": "generation_failed", "message": "Generation failed."}
    assert len(books.script.spoken) >= 6
    books.engine.script = FakeScript()
    assert do(books, job, "resume").status_code == 200
    until(books, job, completed)


def test_a_full_disk_fails_the_job_and_loses_nothing(books: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, number: int, audio: bytes) -> None:
        raise OSError(28, "No space left on device", "/somewhere/secret")

    with monkeypatch.context() as patch:
        patch.setattr("echo.jobs.store.PieceFolder.write", full)
        job = create(books)
        failed = until(books, job, lambda now: now["status"] == "failed")
    assert failed["error"]["code"] == "storage_failed"
    assert "secret" not in failed["error"]["message"]
    do(books, job, "resume")
    until(books, job, completed)


def test_cancelled_and_deleted_jobs_leave_nothing_behind(books: Served, folder: Path) -> None:
    gate = Gate()
    books.script.render = gate
    job = create(books)
    assert gate.reached.wait(10)
    assert do(books, job, "cancel").json()["status"] == "cancelled"
    gate.open()
    assert do(books, job, "resume").status_code == 409
    assert not (folder / job["id"] / "pieces").exists()
    gone = httpx.delete(f"{books.url}{JOBS}/{job['id']}")
    assert gone.json() == {"id": job["id"], "object": "audio.job", "deleted": True}
    assert list(folder.iterdir()) == []
    assert do(books, job, "resume").status_code == 404


def test_work_in_the_background_takes_no_slot_and_no_place_in_the_queue(serve: Serve, folder: Path) -> None:
    server = serve(jobs_dir=folder, max_concurrent=1, max_queue=0)
    gate = Gate()
    server.script.render = lambda utterance, block, count: (
        gate(utterance, block, count) if utterance.listener.background else Gate(99)(utterance, block, count)
    )
    create(server)
    assert gate.reached.wait(10)
    assert httpx.post(server.url + "/v1/audio/speech", json={"input": "Now."}).status_code == 200
    gate.open()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": 5}, "input"),
        ({"voice": "nobody"}, "voice"),
        ({"response_format": "exe"}, "response_format"),
        ({"text_format": "html"}, "text_format"),
        ({"preset": "none such"}, "preset"),
        ({"speed": 9}, "speed"),
        ({"title": "x" * 201}, "title"),
        ({"num_steps": 0}, "num_steps"),
    ],
)
def test_what_could_never_be_spoken_is_refused_at_once(books: Served, fields: dict[str, Any], param: str) -> None:
    answer = httpx.post(books.url + JOBS, json={"input": BOOK, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert httpx.get(books.url + JOBS).json()["data"] == []


def test_texts_and_queues_have_limits(serve: Serve, folder: Path) -> None:
    server = serve(jobs_dir=folder, jobs_max_chars=60, jobs_waiting=2, client_share=1.0)
    long, url = "a. " * 30, server.url + JOBS
    for answer, field in (
        (httpx.post(url, json={"input": long}), "input"),
        (httpx.post(url, files={"file": ("long.txt", long)}), "file"),
    ):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field
        assert answer.json()["error"]["message"].startswith(f"{field}: 89 characters")
    gate = Gate()
    server.script.render = gate
    made = [httpx.post(server.url + JOBS, json={"input": "Hello."}) for _ in range(3)]
    assert [answer.status_code for answer in made] == [202, 202, 429]
    assert made[2].headers["retry-after"]
    gate.open()


@pytest.mark.parametrize("path", ["/job_000000000000000000000000", "/..%2f..%2fetc", "/x/events", "/x/content"])
def test_unknown_jobs_are_not_found(books: Served, path: str) -> None:
    assert httpx.get(books.url + JOBS + path).status_code == 404


def test_what_is_not_there_yet_is_a_conflict(books: Served) -> None:
    gate = Gate()
    books.script.render = gate
    job = create(books)
    assert get(books, job, "/content")["error"]["code"] == "not_finished"
    assert get(books, job, "/chapters/1/content")["error"]["code"] == "not_finished"
    assert get(books, job, "/chapters/3/content")["error"]["code"] == "not_found"
    gate.open()
    until(books, job, completed)


def test_jobs_belong_to_their_key(serve: Serve, folder: Path) -> None:
    server = serve(jobs_dir=folder, api_keys=("one", "two"))
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    job = httpx.post(server.url + JOBS, json={"input": "Hello."}, headers=one).json()
    path = f"{server.url}{JOBS}/{job['id']}"
    assert httpx.get(path, headers=one).status_code == 200
    assert httpx.get(path, headers=two).status_code == 404
    assert httpx.get(server.url + JOBS, headers=two).json()["data"] == []
    assert httpx.get(path).status_code == 401


def test_without_a_folder_there_are_no_jobs(server: Served) -> None:
    answer = httpx.post(server.url + JOBS, json={"input": BOOK})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "feature_disabled")


def test_a_job_that_cannot_be_stored_is_refused_without_a_path(serve: Serve, folder: Path) -> None:
    folder.write_bytes(b"")  # a file in the folder's place; as root, nothing else is denied
    server = serve(jobs_dir=folder)
    answer = httpx.post(server.url + JOBS, json={"input": BOOK, "voice": "bob"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "storage_failed"
    assert str(folder) not in answer.text
    assert httpx.get(server.url + JOBS).json()["data"] == []
    folder.unlink()
    until(server, create(server), completed)


def test_on_a_full_disk_a_job_can_still_be_paused_and_cancelled(
    books: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere/secret")

    gate = Gate()
    books.script.render = gate
    job, other = create(books), create(books)
    assert gate.reached.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr("echo.jobs.store.JobStore.save", full)
        assert do(books, other, "cancel").json()["status"] == "cancelled"
        assert do(books, job, "pause").json()["status"] == "paused"
    gate.open()
    assert do(books, job, "resume").status_code == 200
    until(books, job, completed)


@pytest.mark.parametrize("days", [-1000, 1000])
def test_a_clock_that_jumps_loses_no_job(
    serve: Serve, folder: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are kept for so long; a clock that is set meanwhile makes none older, whoever has spoken it."""
    first = serve(jobs_dir=folder)
    earlier = create(first)
    until(first, earlier, completed)
    server = serve(jobs_dir=folder)
    before = create(server)
    until(server, before, completed)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: now() + days * 86_400)
        behind = create(server)
        until(server, behind, completed)
    until(server, create(server), completed)  # the old ones are looked through before each
    assert {job["id"] for job in httpx.get(server.url + JOBS).json()["data"]} >= {
        earlier["id"],
        before["id"],
        behind["id"],
    }


def test_a_job_that_cannot_be_removed_is_still_there(
    books: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create(books)
    until(books, job, completed)

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system", "/somewhere/secret")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", read_only)
        refused = httpx.delete(f"{books.url}{JOBS}/{job['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "storage_failed")
    assert "secret" not in refused.text
    assert get(books, job)["status"] == "completed"
    assert httpx.delete(f"{books.url}{JOBS}/{job['id']}").status_code == 200
    assert list(folder.iterdir()) == []


def test_a_result_that_is_gone_from_the_disk_is_not_found(
    books: Served, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = create(books)
    until(books, job, completed)
    away = folder.rename(folder.with_name("away"))
    for path in ("/content", "/chapters/1/content"):
        answer = httpx.get(f"{books.url}{JOBS}/{job['id']}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert not [record for record in caplog.records if record.exc_info]
    away.rename(folder)
    assert httpx.get(f"{books.url}{JOBS}/{job['id']}/content").status_code == 200


def test_old_jobs_are_removed_while_nothing_else_happens(
    serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo.jobs.jobs._FORGET_S", 0.05)
    server = serve(jobs_dir=folder, jobs_keep_days=0.1 / 86_400)
    create(server)
    wait_until(lambda: httpx.get(server.url + JOBS).json()["data"] == [])  # it is told of until it is gone
    assert list(folder.iterdir()) == []


def test_a_job_does_not_go_on_with_another_engine(serve: Serve, folder: Path) -> None:
    """Pieces of two engines are no book, and those of another rate would be played too fast."""
    first = serve(jobs_dir=folder, jobs_parallel=1)
    gate = Gate()
    first.script.render = lambda utterance, block, count: (gate if "stopped" in utterance.text else Gate(99))(
        utterance, block, count
    )
    job = create(first)
    file = folder / job["id"] / "job.json"
    wait_until(lambda: "chapter-001" in file.read_text())
    file.write_text(file.read_text().replace('"engine": "', '"engine": "another-'))
    second = serve(jobs_dir=folder)
    failed = until(second, job, lambda now: now["status"] == "failed")
    assert failed["error"]["code"] == "engine_changed"
    assert "another-" in failed["error"]["message"]
    assert second.script.spoken == []
    do(first, job, "cancel")
    gate.open()


def test_a_device_that_has_stopped_costs_no_job(books: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a new process helps, and it finds the job as it was."""
    monkeypatch.setattr("echo.jobs.jobs._PAUSE_S", 0.0)
    tries: list[Utterance] = []

    def stopped(utterance: Utterance) -> FrameStream:
        tries.append(utterance)
        stream = FrameStream()
        stream.finish(DeviceStopped())
        return stream

    with monkeypatch.context() as patch:
        patch.setattr(books.engine, "speak", stopped)
        job = create(books)
        wait_until(lambda: len(tries) > 12)
        assert get(books, job)["status"] == "running"
    until(books, job, completed)


def test_an_upload_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo.jobs.jobs._PAUSE_S", 0.0)
    tries: list[str] = []

    class Bucket:
        def upload(self, file: Path, job: str, media_type: str) -> str:
            tries.append(file.name)
            if len(tries) < 4:
                raise UploadFailed("The result could not be uploaded to the storage.")
            return f"{job}/{file.name}"

    async def make() -> JobRecord:
        store = JobStore(tmp_path)
        jobs = Jobs(store, JobRules(), Bucket())  # type: ignore[arg-type]
        record = await jobs.create("me", "", JobSpec(encoding=Encoding.FLAC), chapters("One.", markdown=False), None)
        record.sample_rate = 44_100
        store.pieces(record.id).write(0, b"\0\0" * 1000)
        await jobs._make(record, "whole.flac", store.text(record.id), range(1))
        return record

    record = asyncio.run(make())
    assert tries == ["whole.flac"] * 4
    assert record.ready == ["whole.flac"]


def test_a_slow_disk_holds_nobody_up(books: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may take a second to say that it has something; meanwhile others listen."""
    held, went_on = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(file: int) -> None:
        held.set()
        assert went_on.wait(PATIENCE_S)
        sync(file)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setattr(os, "fsync", slow)
        creating = thread.submit(create, books)
        assert held.wait(PATIENCE_S)
        assert httpx.get(books.url + "/health").status_code == 200
        assert httpx.post(books.url + "/v1/audio/speech", json={"input": "Now."}).status_code == 200
        went_on.set()
        job = creating.result(PATIENCE_S)
    until(books, job, completed)


def test_an_empty_file_is_told_of_by_the_name_of_its_field(books: Served) -> None:
    answer = httpx.post(books.url + JOBS, files={"file": ("empty.txt", b" \n", "text/plain")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
