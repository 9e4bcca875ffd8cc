"""Fetching voices that are not here."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echo.decoding.pool import DecoderPool
from echo.errors import Overloaded, VoiceUnavailable
from echo.voices.download import BaseUrl, Downloader
from echo.voices.fetched import FetchedVoices
from echo.voices.names import AUDIO_SUFFIXES
from echo.voices.remote import RemoteVoices
from tests.bucket import Bucket, body, clip, endless, open_bucket, redirect

PAGE = b"<!doctype html><html><body>Not found</body></html>" * 50


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        yield opened


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    pool = DecoderPool(1)
    yield pool
    pool.close()


@asynccontextmanager
async def remote(
    bucket: Bucket, decoders: DecoderPool, folder: Path, **options: Any
) -> AsyncIterator[tuple[RemoteVoices, FetchedVoices]]:
    fetched = FetchedVoices(folder, 10_000_000)
    downloader = Downloader(BaseUrl.parse(bucket.url), 500_000)
    voices = RemoteVoices(downloader, fetched, decoders, **{"timeout_s": 60.0, **options})
    try:
        yield voices, fetched
    finally:
        await voices.close()


async def test_a_voice_is_fetched_and_kept(bucket: Bucket, decoders: DecoderPool, tmp_path: Path) -> None:
    outcomes: list[str] = []
    bucket.put("anna.wav", clip())
    async with remote(bucket, decoders, tmp_path, observe=outcomes.append) as (voices, fetched):
        assert await voices.fetch(["anna"])
        entry = fetched.find("anna")
        assert entry is not None
        assert (entry.folder / entry.clips[0]).read_bytes() == clip()
    assert bucket.of("anna") == ["anna.wav"]
    assert outcomes == ["done"]


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
async def test_every_suffix_of_the_library_is_tried_in_its_order(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path, suffix: str
) -> None:
    bucket.put(f"anna{suffix}", clip(0.5))
    async with remote(bucket, decoders, tmp_path) as (voices, fetched):
        assert await voices.fetch(["anna"])
        entry = fetched.find("anna")
    assert bucket.of("anna") == [f"anna{each}" for each in AUDIO_SUFFIXES[: AUDIO_SUFFIXES.index(suffix) + 1]]
    assert entry is not None
    assert entry.name.endswith(suffix)


async def test_the_first_of_several_names_that_is_there(bucket: Bucket, decoders: DecoderPool, tmp_path: Path) -> None:
    bucket.put("beth.wav", clip())
    async with remote(bucket, decoders, tmp_path) as (voices, _):
        assert await voices.fetch(["anna", "beth"])
        assert not await voices.fetch([])


async def test_all_who_ask_at_the_same_time_wait_for_one_fetch(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path
) -> None:
    bucket.put("anna.wav", clip())
    async with remote(bucket, decoders, tmp_path) as (voices, _):
        asking = [asyncio.create_task(voices.fetch(["anna"], f"client {number}")) for number in range(20)]
        await asyncio.sleep(0)
        asking[0].cancel()  # the first one leaves; the others get what it asked for
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [True] * 19
    assert bucket.of("anna") == ["anna.wav"]


async def test_that_there_is_no_voice_is_remembered_for_a_while(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path
) -> None:
    async with remote(bucket, decoders, tmp_path, forget_s=600.0) as (voices, _):
        assert not await voices.fetch(["anna"])
        bucket.put("anna.wav", clip())
        assert not await voices.fetch(["anna"])
    assert len(bucket.of("anna")) == len(AUDIO_SUFFIXES)
    async with remote(bucket, decoders, tmp_path, forget_s=0.0) as (voices, _):
        assert not await voices.fetch(["bob"])
        bucket.put("bob.wav", clip())
        assert await voices.fetch(["bob"])


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (PAGE, len(AUDIO_SUFFIXES)),  # a page for everything that is not there
        (b"RIFF\x00\x00\x00\x00WAVE" + bytes(2000), 1),
        (clip(0.05), 1),
        (clip()[:44] + bytes(88_200), 1),  # silence
        (bytes(500_001), 1),
    ],
)
async def test_what_cannot_be_a_voice_is_refused(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path, data: bytes, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in AUDIO_SUFFIXES:
        bucket.put(f"anna{suffix}", data)
    outcomes: list[str] = []
    async with remote(bucket, decoders, tmp_path, observe=outcomes.append) as (voices, fetched):
        with caplog.at_level(logging.WARNING):
            assert not await voices.fetch(["anna"])
        assert fetched.find("anna") is None
        assert fetched.count == 0
    assert len(bucket.of("anna")) == asked
    assert outcomes == ["missing" if asked > 1 else "refused"]
    assert "anna" in caplog.text


async def test_a_page_in_the_place_of_one_file_does_not_hide_another(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path
) -> None:
    bucket.put("anna.wav", PAGE)
    bucket.put("anna.mp3", clip())
    async with remote(bucket, decoders, tmp_path) as (voices, _):
        assert await voices.fetch(["anna"])


@pytest.mark.parametrize("name", ["stalled", "trickling"])
async def test_a_server_that_is_slow_is_given_up(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path, name: str
) -> None:
    bucket.answers["/voices/anna.wav"] = getattr(bucket, name)
    async with remote(bucket, decoders, tmp_path, timeout_s=2.0, forget_s=600.0) as (voices, _):
        for _ in range(2):
            with pytest.raises(VoiceUnavailable) as failed:
                await voices.fetch(["anna"])
            assert "127.0.0.1" not in failed.value.message
            assert failed.value.retry_after_s
    assert bucket.of("anna") == ["anna.wav"]  # it is not asked again at once


@pytest.mark.parametrize("answer", [body(b"", 500), body(b"RIFF", Content_Length="100")])
async def test_a_server_in_trouble_says_nothing_about_the_voice(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path, answer: Any
) -> None:
    bucket.answers["/voices/anna.wav"] = answer
    async with remote(bucket, decoders, tmp_path) as (voices, _):
        with pytest.raises(VoiceUnavailable):
            await voices.fetch(["anna"])


async def test_no_server_at_all(decoders: DecoderPool, tmp_path: Path) -> None:
    with socket.socket() as taken:  # and not listening
        taken.bind(("127.0.0.1", 0))
        gone = Bucket("127.0.0.1", taken.getsockname()[1])
        async with remote(gone, decoders, tmp_path) as (voices, _):
            with pytest.raises(VoiceUnavailable):
                await voices.fetch(["anna"])


@pytest.mark.parametrize("answer", [endless, redirect("http://169.254.169.254/latest/meta-data/")])
async def test_what_is_refused_while_it_is_read(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path, answer: Any
) -> None:
    bucket.answers["/voices/anna.wav"] = answer
    async with remote(bucket, decoders, tmp_path) as (voices, _):
        assert not await voices.fetch(["anna"])


async def test_clients_take_turns_and_too_many_are_refused(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path
) -> None:
    async with remote(bucket, decoders, tmp_path, timeout_s=60.0) as (voices, _):
        for number in range(60):
            bucket.answers[f"/voices/v{number}.wav"] = bucket.stalled
        asking = [asyncio.create_task(voices.fetch([f"v{number}"], "greedy")) for number in range(60)]
        await asyncio.sleep(0)
        bucket.put("anna.wav", clip())
        assert await voices.fetch(["anna"], "modest")  # though the other one has filled its share
        for task in asking:
            task.cancel()
        await voices.close()
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers].count(Overloaded) == 60 - 2 - 16  # in work, and in the queue


async def test_closing_ends_what_is_being_fetched(bucket: Bucket, decoders: DecoderPool, tmp_path: Path) -> None:
    bucket.answers["/voices/anna.wav"] = bucket.stalled
    before = asyncio.all_tasks()
    async with remote(bucket, decoders, tmp_path) as (voices, _):
        asking = asyncio.create_task(voices.fetch(["anna"]))
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asyncio.all_tasks() == before


async def test_a_disk_that_cannot_be_written_to_is_a_failure_of_the_moment(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path
) -> None:
    bucket.put("anna.wav", clip())
    (tmp_path / "file").write_bytes(b"")
    async with remote(bucket, decoders, tmp_path / "file") as (voices, _):
        with pytest.raises(VoiceUnavailable):
            await voices.fetch(["anna"])


async def test_a_disk_that_takes_no_clip_is_told_as_a_voice_that_cannot_be_had_now(
    bucket: Bucket, decoders: DecoderPool, tmp_path: Path
) -> None:
    folder = tmp_path / "fetched"
    folder.write_bytes(b"")  # a file in the folder's place; as root, nothing else is denied
    bucket.put("anna.wav", clip())
    async with remote(bucket, decoders, folder, forget_s=0.0) as (voices, _):
        with pytest.raises(VoiceUnavailable) as refused:
            await voices.fetch(["anna"])
        assert refused.value.retry_after_s is not None
        assert str(folder) not in refused.value.message
        folder.unlink()
        assert await voices.fetch(["anna"])
