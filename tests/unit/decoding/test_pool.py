"""Decoding what strangers send: right with any number of channels, in processes that may fail and cost little."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from echo.decoding.clip import decode
from echo.decoding.limits import HEADROOM_BYTES
from echo.decoding.pool import DecoderPool
from echo.decoding.refusal import Refusal, Refused
from echo.decoding.riff import promises_more_text_than_it_has
from echo.decoding.stop import Stop, Stopped
from echo.errors import NotReady
from echo.settings import child_environment
from echo.types import Audio
from echo.voices.container import sniff
from tests.unit.voices.voice_files import SURROUND, encoded, encoded_as, level, level_of, tone, wav_bytes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SECOND = 44_100
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def shared() -> Iterator[DecoderPool]:
    """A pool that tests may use but not close."""
    made = DecoderPool()
    yield made
    made.close()


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(1)
    yield made
    made.close()


def read(pool: DecoderPool, data: bytes, max_seconds: float = 300.0, stop: Stop | None = None) -> Audio:
    container = sniff(data)
    assert container is not None
    return pool.decode(data, container.value, max_seconds, stop)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running(pid: int) -> bool:
    """Tell whether a process lives; one that nobody has asked about since it ended does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(pid: int) -> list[int]:
    """Return the decoding processes of another process."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and b"echo.decoding.child" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def halt(pid: int) -> None:
    """Stop a decoding process that has nothing to do: what it is given next, it does not begin."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def has_work(pid: int) -> bool:
    """Tell whether a process that is stopped has been given a clip."""
    with open(f"/proc/{pid}/fd/0", "rb", buffering=0) as pipe:
        return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0] > 0


# What comes out


def many(layout: str, seconds: float = 1.0, rate: int = 48_000) -> tuple[Audio, Audio]:
    """Return interleaved channels, each with a pitch of its own, and their mean."""
    count = av.AudioLayout(layout).nb_channels
    channels = np.stack([tone(seconds, 300 + 60 * n, 0.5, rate) for n in range(count)], axis=1)
    return channels.reshape(-1), channels.mean(axis=1)


@pytest.mark.parametrize("name", SURROUND)
def test_all_channels_of_a_surround_clip_are_averaged(shared: DecoderPool, name: str) -> None:
    container, codec, layout = SURROUND[name]
    channels, mean = many(layout)
    audio = read(shared, encoded_as(container, codec, layout, channels))
    wanted = decode(wav_bytes(mean, 48_000), "wav", 300)
    assert len(audio) == pytest.approx(len(wanted), abs=0.05 * SECOND)  # codecs pad
    spectra = [np.abs(np.fft.rfft(a[2000 : 2000 + SECOND // 2])) for a in (audio, wanted)]
    lossless = codec in ("alac", "flac", "pcm_s16le")
    likeness = float(np.corrcoef(*spectra)[0, 1])
    assert likeness > (0.999 if lossless else 0.9), likeness


def test_more_channels_than_ffmpeg_converts_are_refused_with_the_number(shared: DecoderPool) -> None:
    with pytest.raises(Refused, match="at most 64") as caught:
        read(shared, encoded_as("wav", "pcm_s16le", "65 channels", many("65 channels", 0.1)[0]))
    assert caught.value.param == "voice"


def test_a_child_decodes_as_this_process_does_and_its_audio_can_be_written_to(shared: DecoderPool) -> None:
    clip = encoded(".mp3", tone(1.0, rate=48_000))
    audio = read(shared, clip, 0.5)
    np.testing.assert_array_equal(audio, decode(clip, "mp3", 0.5))
    audio[0] = 0
    assert len(audio) == SECOND // 2


def test_no_other_codec_than_those_of_speech_is_used(shared: DecoderPool) -> None:
    """ADPCM of a game: FFmpeg reads it, but nobody records a voice in it."""
    clip = encoded_as("wav", "adpcm_yamaha", "mono", tone(0.5, rate=48_000))
    with pytest.raises(Refused):
        read(shared, clip)


# What it may cost


def riff(*chunks: tuple[bytes, int, bytes]) -> bytes:
    """A WAV file with these chunks (name, claimed size, content) before its samples."""
    plain = wav_bytes(tone(0.3))
    extra = b"".join(name + struct.pack("<I", size) + data for name, size, data in chunks)
    return plain[:12] + extra + plain[12:]


HUGE = 0x7FFFFFF0
CLAIMS = {
    "a text of 2 GB": riff((b"LIST", HUGE, b"INFO" + b"ISFT" + struct.pack("<I", HUGE - 64))),
    "a text of 2 GB in a small list": riff((b"LIST", 24, b"INFO" + b"ISFT" + struct.pack("<I", HUGE) + bytes(12))),
    "a second text of 2 GB": riff(
        (b"LIST", 40, b"INFO" + b"INAM" + struct.pack("<I", 4) + b"Anna" + b"ISFT" + struct.pack("<I", HUGE))
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_wav_whose_text_is_longer_than_the_file_is_refused_unread(name: str) -> None:
    assert promises_more_text_than_it_has(CLAIMS[name])
    with pytest.raises(Refused):
        decode(CLAIMS[name], "wav", 300)


def test_texts_that_are_there_do_no_harm(shared: DecoderPool) -> None:
    notes = b"INFO" + b"INAM" + struct.pack("<I", 5) + b"Anna\0\0" + b"ICMT" + struct.pack("<I", 2) + b"hi"
    clip = riff((b"LIST", len(notes), notes))
    assert not promises_more_text_than_it_has(clip)
    assert len(read(shared, clip)) == len(tone(0.3))


def id3_bomb(megabytes: int) -> bytes:
    """An MP3 with a picture of so many MB of zeros, compressed (ID3v2.4, frame flags 'compressed', 'data length')."""

    def seven_bits(number: int) -> bytes:
        return bytes((number >> shift) & 0x7F for shift in (21, 14, 7, 0))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()
    frame = b"APIC" + seven_bits(len(packed) + 4) + b"\0\x09" + seven_bits(megabytes * 2**20) + packed
    return b"ID3\x04\0\0" + seven_bits(len(frame)) + frame + encoded(".mp3", tone(0.5, rate=48_000))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of another process in /proc")
@pytest.mark.parametrize("bomb", [*CLAIMS, "a compressed picture"])
def test_no_length_in_a_file_makes_a_child_take_more_than_its_limit(pool: DecoderPool, bomb: str) -> None:
    data = CLAIMS[bomb] if bomb in CLAIMS else id3_bomb(250)
    read(pool, level(1000))
    (child,) = pool.pids
    before = peak_bytes(child)
    with contextlib.suppress(Refused):
        read(pool, data)
    assert peak_bytes(child) - before < HEADROOM_BYTES
    assert level_of(read(pool, level(2000))) == 2000
    assert pool.pids == [child]


def peak_bytes(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say how much a process has")
def test_the_system_refuses_memory_beyond_the_limit() -> None:
    code = (
        "from echo.decoding.limits import JobLimits\n"
        "JobLimits().begin(1000, 1000)\n"
        "bytearray(2**26)\n"
        "try: bytearray(2**29)\n"
        "except MemoryError: print('refused')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout == b"refused\n"
    )


def test_a_clip_of_hours_gives_its_first_five_minutes(pool: DecoderPool) -> None:
    """Silence of FLAC is as small as a file gets: 8 minutes in some ten kilobytes."""
    clip = encoded_as("flac", "flac", "mono", np.zeros(480 * 8_000, np.float32), rate=8_000)
    assert len(clip) < 100_000
    assert len(read(pool, clip)) == 300 * SECOND


# What happens to a child


def test_one_that_crashes_costs_its_clip_and_no_other(pool: DecoderPool, caplog: pytest.LogCaptureFixture) -> None:
    read(pool, level(1000))
    (child,) = pool.pids
    halt(child)
    with ThreadPoolExecutor(1) as others:
        lost = others.submit(read, pool, level(1500))
        eventually(lambda: has_work(child))
        os.kill(child, signal.SIGSEGV)
        os.kill(child, signal.SIGCONT)
        with pytest.raises(Refused, match="makes the decoder fail") as caught:
            lost.result(PATIENCE_S)
    assert (caught.value.reason, caught.value.param) == (Refusal.CRASHED, "voice")
    assert "status -11" in caplog.text
    assert level_of(read(pool, level(2000))) == 2000
    assert len(pool.pids) == 1
    assert pool.pids != [child]


def endless() -> bytes:
    """Five minutes of 8 channels at a rate that has to be changed: seconds of work."""
    return encoded_as("flac", "flac", "7.1", np.zeros(8 * 300 * 48_000, np.float32))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_a_valid_clip_that_pyav_cannot_read_costs_itself_only(pool: DecoderPool) -> None:
    """Centre, left, right: PyAV frees the map of such a layout twice (decision 9). Mended there, it is read."""
    clip = bytearray(encoded_as("mov", "pcm_s16le", "3.0", np.repeat(tone(0.5, rate=48_000), 3)))
    tag = clip.index(b"chan") + 8
    assert clip[tag : tag + 4] == struct.pack(">I", 113 << 16 | 3), "MPEG_3_0_A: left, right, centre"
    clip[tag : tag + 4] = struct.pack(">I", 114 << 16 | 3)
    try:
        assert len(read(pool, bytes(clip))) == SECOND // 2
    except Refused as refused:
        assert refused.reason is Refusal.CRASHED  # noqa: PT017 - which of the two is PyAV's
    assert level_of(read(pool, level(2000))) == 2000


def test_one_that_hangs_is_killed_and_replaced(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    read(pool, level(1000))
    (child,) = pool.pids
    halt(child)
    monkeypatch.setattr("echo.decoding.process.WALL_SECONDS", 1.0)
    monkeypatch.setattr("echo.decoding.process._GRACE_SECONDS", 0.0)
    with pytest.raises(Refused, match="take too long") as caught:
        read(pool, level(1500))
    assert caught.value.reason is Refusal.TOO_LONG
    monkeypatch.undo()
    assert level_of(read(pool, level(2000))) == 2000
    assert not running(child)


def test_one_that_computes_for_too_long_is_ended_by_the_system(pool: DecoderPool) -> None:
    """The processor's limit ends it even where its owner cannot: here the limit is lowered from outside."""
    import resource

    read(pool, level(1000))
    (child,) = pool.pids
    clip = endless()
    while cpu_seconds(child) < 1.0:  # what the lowered limit allows
        read(pool, clip)
    before = cpu_seconds(child)
    os.setpriority(os.PRIO_PROCESS, child, 19)  # it gets no further while this process has to wait for a core
    with ThreadPoolExecutor(1) as others:
        long = others.submit(read, pool, clip)
        eventually(lambda: cpu_seconds(child) > before + 0.1)  # its own limits have been set
        resource.prlimit(child, resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
        with pytest.raises(Refused, match="take too long"):
            long.result(PATIENCE_S)


def test_one_that_ended_while_nobody_used_it_costs_nothing(pool: DecoderPool) -> None:
    read(pool, level(1000))
    (child,) = pool.pids
    os.kill(child, signal.SIGKILL)
    # Until all of its threads are gone, which is later than its main thread's end.
    eventually(lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None)
    assert level_of(read(pool, level(2000))) == 2000


def test_a_clip_that_nobody_waits_for_is_not_decoded_to_the_end(pool: DecoderPool) -> None:
    read(pool, level(1000))
    (child,) = pool.pids
    halt(child)
    stop = Stop()
    with ThreadPoolExecutor(2) as others:
        long = others.submit(read, pool, level(1200), 300.0, stop)
        eventually(lambda: has_work(child))
        second = Stop()
        waiting = others.submit(read, pool, level(1500), 300.0, second)
        second.set()
        with pytest.raises(Stopped):
            waiting.result(PATIENCE_S)
        assert not long.done()
        stop.set()
        with pytest.raises(Stopped):
            long.result(PATIENCE_S)
    assert not running(child)
    with pytest.raises(Stopped):
        read(pool, level(1000), stop=stop)
    assert level_of(read(pool, level(2000))) == 2000


def test_there_are_never_more_than_the_pool_may_have_and_warm_ones_are_kept() -> None:
    seen: Counter[str] = Counter()
    pool = DecoderPool(2, observe=lambda outcome: seen.update([outcome]))
    try:
        assert pool.pids == [], "none is started before it is needed"
        with ThreadPoolExecutor(6) as others:
            levels = [level_of(audio) for audio in others.map(lambda n: read(pool, level(n)), range(100, 1300, 100))]
        assert levels == list(range(100, 1300, 100))
        kept = pool.pids
        assert 1 <= len(kept) <= 2
        with pytest.raises(Refused):
            pool.decode(b"RIFF" + bytes(2000), "wav", 300)
        assert pool.pids == kept
        assert seen == {"done": 12, "undecodable": 1}
    finally:
        pool.close()
    assert pool.pids == []


def test_a_process_is_replaced_after_many_clips(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo.decoding.pool._MAX_CLIPS", 2)
    seen = []
    for value in (1000, 1100, 1200):
        seen += pool.pids
        assert level_of(read(pool, level(value))) == value
    assert len(set(seen)) == 1, "the first served two clips"
    assert pool.pids != seen[:1]


def test_closing_ends_what_is_being_decoded(pool: DecoderPool) -> None:
    read(pool, level(1000))
    (child,) = pool.pids
    halt(child)
    with ThreadPoolExecutor(2) as others:
        both = [others.submit(read, pool, level(1500)) for _ in range(2)]
        eventually(lambda: has_work(child))
        pool.close()
        for each in both:
            with pytest.raises(NotReady):
                each.result(PATIENCE_S)
    assert pool.pids == []
    with pytest.raises(NotReady):
        read(pool, level(1000))


def test_without_a_process_to_be_had_it_is_no_fault_of_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecoderPool(1)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(NotReady):
        read(pool, level(1000))
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(NotReady):
        read(pool, level(1000))
    monkeypatch.undo()
    assert level_of(read(pool, level(2000))) == 2000
    pool.close()


# What a child has of its owner's


@pytest.mark.skipif(sys.platform != "linux", reason="looks at another process in /proc")
def test_it_has_no_socket_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHO_API_KEYS", "very-secret")
    monkeypatch.setenv("HF_TOKEN", "very-secret")
    pool = DecoderPool(1, environment=child_environment())
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, open(__file__, "rb"):
            server.set_inheritable(True)
            read(pool, level(1000))
            (child,) = pool.pids
            links = [os.readlink(fd) for fd in Path(f"/proc/{child}/fd").iterdir() if fd.name not in ("1", "2")]
        assert links
        assert all(link.startswith("pipe:") for link in links), links
        assert b"very-secret" not in Path(f"/proc/{child}/environ").read_bytes()
    finally:
        pool.close()


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, echo.decoding.child\n"
        "print(sorted({'torch', 'fastapi', 'pydantic', 'asyncio', 'starlette', 'echo.settings'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout == b"[]\n"


def test_signals_of_a_terminal_or_a_service_manager_do_not_end_it(pool: DecoderPool) -> None:
    read(pool, level(1000))
    (child,) = pool.pids
    assert os.getsid(child) != os.getsid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child, number)
    assert level_of(read(pool, level(2000))) == 2000
    assert pool.pids == [child]


OWNER = """
import sys, threading
sys.path.insert(0, {root!r})
from echo.decoding.pool import DecoderPool
from tests.unit.voices.voice_files import level
pool = DecoderPool(1)
pool.decode(level(1000), "wav", 300)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "left without a close"])
def test_it_does_not_outlive_its_owner(end: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(root=str(ROOT))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner:
        assert owner.stdout.readline() == b"ready\n"
        (child,) = children_of(owner.pid)
        if end == "killed":
            owner.kill()
        else:
            owner.stdin.close()
        assert owner.wait(PATIENCE_S) == (-signal.SIGKILL if end == "killed" else 0)
    eventually(lambda: not running(child))


def test_it_is_found_from_any_directory_and_whatever_python_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: DecoderPool
) -> None:
    """The server runs from a checkout, which is not installed, and files of the directory must not get in the way."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", "/nonexistent")
    assert level_of(read(pool, level(1000))) == 1000


def test_many_threads_at_once_get_each_its_own_audio(shared: DecoderPool) -> None:
    barrier = threading.Barrier(8)

    def job(number: int) -> list[int]:
        barrier.wait(PATIENCE_S)
        return [level_of(read(shared, level(number * 100 + n))) for n in range(5)]

    with ThreadPoolExecutor(8) as others:
        results = list(others.map(job, range(1, 9)))
    assert results == [[number * 100 + n for n in range(5)] for number in range(1, 9)]
