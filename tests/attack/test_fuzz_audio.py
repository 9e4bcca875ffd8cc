"""Damaged files of every container, through the pool that decodes what strangers send.

Twenty files of each kind, or as many as ``ATTACK_SECONDS`` in all allow. Every file follows from its seed, which a
failure names: to see one again, call ``mutated(name, seed)``.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from echo.decoding.pool import DecoderPool
from echo.decoding.refusal import Refusal, Refused
from echo.types import SAMPLE_RATE, Audio
from echo.voices.container import Container, sniff
from tests.unit.voices.voice_files import SURROUND, encoded_as, level, level_of, tone

#: Name -> FFmpeg's container, codec, channel layout.
KINDS = {
    "wav": ("wav", "pcm_s16le", "stereo"),
    "wav float": ("wav", "pcm_f32le", "mono"),
    "wav adpcm": ("wav", "adpcm_ms", "mono"),
    "mp3": ("mp3", "libmp3lame", "stereo"),
    "m4a": ("ipod", "aac", "stereo"),
    "m4a in pieces": ("mp4", "aac", "mono"),
    "alac": ("ipod", "alac", "stereo"),
    "ac3 in m4a": ("ipod", "ac3", "5.1"),
    "opus": ("ogg", "libopus", "stereo"),
    "flac": ("flac", "flac", "stereo"),
    "webm": ("webm", "libopus", "mono"),
    "aac": ("adts", "aac", "stereo"),
    **{f"7.1 {name}": kind for name, kind in SURROUND.items() if kind[2] != "64 channels"},
}
#: Values that lengths, counts and rates are compared with, and just beyond.
INTERESTING = (0, 1, 2, 7, 8, 9, 63, 64, 65, 255, 256, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
#: Where headers, tables and tags are.
HEAD_BYTES = 1_500
WANTED_SECONDS = 3.0
LEAST = 20


def budget_s() -> float:
    return float(os.environ.get("ATTACK_SECONDS", "0")) / len(KINDS)


@cache
def whole(name: str) -> bytes:
    container, codec, layout = KINDS[name]
    count = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8, "7.1(wide)": 8}[layout]
    sound = np.repeat(tone(0.4, rate=48_000), count)
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "100000"} if name == "m4a in pieces" else None
    return encoded_as(container, codec, layout, sound, options=options)


def mutated(name: str, seed: int) -> bytes:
    """Return the file of this kind that the seed damages."""
    chance = random.Random(f"{name} {seed}")
    data = bytearray(whole(name))
    for _ in range(chance.choice((1, 1, 2, 4, 8, 32))):
        chance.choice(MUTATIONS)(data, chance)
        if not data:
            return bytes(data)
    return bytes(data)


def place(data: bytearray, chance: random.Random) -> int:
    """Somewhere in the file, mostly near its beginning."""
    return chance.randrange(min(len(data), HEAD_BYTES) if chance.random() < 0.8 else len(data))


def flip(data: bytearray, chance: random.Random) -> None:
    data[place(data, chance)] ^= 1 << chance.randrange(8)


def overwrite(data: bytearray, chance: random.Random) -> None:
    data[place(data, chance)] = chance.randrange(256)


def number(data: bytearray, chance: random.Random) -> None:
    """Put an interesting number somewhere, as lengths are written: 2, 3, 4 or 8 bytes, either end first."""
    value, size = chance.choice(INTERESTING), chance.choice((2, 3, 4, 4, 4, 8))
    packed = struct.pack(">Q", value)[8 - size :]
    start = place(data, chance)
    data[start : start + size] = packed if chance.random() < 0.5 else packed[::-1]


def cut_out(data: bytearray, chance: random.Random) -> None:
    start = place(data, chance)
    del data[start : start + chance.choice((1, 4, 16, 256))]


def cut_off(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data) + 1) :]


def repeat(data: bytearray, chance: random.Random) -> None:
    start, size = place(data, chance), chance.choice((4, 16, 64, 512))
    data[start:start] = data[start : start + size] * chance.choice((1, 2, 16))


def splice(data: bytearray, chance: random.Random) -> None:
    """Take a piece of another kind of file."""
    other = whole(chance.choice(list(KINDS)))
    source, size = chance.randrange(len(other)), chance.choice((8, 64, 512))
    start = place(data, chance)
    data[start : start + size] = other[source : source + size]


def noise(data: bytearray, chance: random.Random) -> None:
    start, size = place(data, chance), chance.choice((4, 16, 64))
    data[start : start + size] = chance.randbytes(size)


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    *(flip, flip, overwrite, number, number, number, cut_out, cut_off, repeat, splice, noise)
]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(1)
    yield made
    made.close()


def decoded(pool: DecoderPool, data: bytes, container: Container) -> tuple[Audio | None, Refusal | None]:
    """Return the audio, or why there is none; any other failure is one of ours."""
    try:
        return pool.decode(data, container.value, WANTED_SECONDS), None
    except Refused as refused:
        return None, refused.reason


def peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # no /proc, or it has just been replaced
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def test_the_same_seed_damages_a_file_in_the_same_way() -> None:
    assert mutated("mp3", 7) == mutated("mp3", 7) != mutated("mp3", 8)
    assert all(sniff(whole(name)) is not None for name in KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_decoded_or_refused_and_harms_nothing(pool: DecoderPool, name: str) -> None:
    container = sniff(whole(name))
    assert container is not None
    outcomes: Counter[str] = Counter()
    deadline = time.monotonic() + budget_s()
    first = int(os.environ.get("ATTACK_SEED", "0"))
    seed = first
    while time.monotonic() < deadline or seed < first + LEAST:
        data = mutated(name, seed)
        audio, refused = decoded(pool, data, container)
        outcomes[refused.name if refused is not None else "done"] += 1
        # A hang would hold a process for its whole time. A crash costs only the clip, but one wants to know of it.
        assert refused is not Refusal.TOO_LONG, f"mutated({name!r}, {seed}) takes too long"
        if refused is Refusal.CRASHED:
            print(f"mutated({name!r}, {seed}) ends the decoder")  # noqa: T201
        if audio is not None:
            sound = audio.dtype == np.float32 and audio.ndim == 1 and 0 < len(audio) <= WANTED_SECONDS * SAMPLE_RATE
            assert sound, f"mutated({name!r}, {seed}): {audio.dtype} {audio.shape}"
            assert np.isfinite(audio).all(), f"mutated({name!r}, {seed})"
            assert np.abs(audio).max() <= 1.0, f"mutated({name!r}, {seed})"
        for pid in pool.pids:
            assert peak_mb(pid) < 400, f"mutated({name!r}, {seed}) takes {peak_mb(pid):.0f} MB"
        seed += 1
    print(name, dict(outcomes))  # noqa: T201
    assert level_of(pool.decode(level(1000), "wav", WANTED_SECONDS)) == 1000
    assert len(pool.pids) == 1
