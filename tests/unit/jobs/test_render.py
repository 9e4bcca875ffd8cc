"""Pieces become one file of the right length, whatever the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo.audio.pcm import to_bytes
from echo.jobs.render import render
from echo.jobs.store import PieceFolder
from echo.types import AudioFormat, Encoding

RATE = 44_100
TONE = (0.25 * np.sin(2 * np.pi * 220 / RATE * np.arange(RATE))).astype(np.float32)


def pieces(folder: Path) -> list[tuple[Path, int]]:
    kept = PieceFolder(folder)
    for number in range(2):
        kept.write(number, to_bytes(TONE))
    assert kept.sizes() == {0: 2 * RATE, 1: 2 * RATE}
    return [(kept.path(0), 500), (kept.path(1), 0)]


@pytest.mark.parametrize("encoding", [Encoding.WAV, Encoding.FLAC, Encoding.MP3, Encoding.OPUS])
def test_a_file_holds_the_pieces_and_the_silence_between_them(tmp_path: Path, encoding: Encoding) -> None:
    target = tmp_path / "results" / "whole"
    assert render(pieces(tmp_path), target, AudioFormat(encoding=encoding), RATE) == pytest.approx(2.5, abs=0.2)
    audio, rate = soundfile.read(target)
    assert len(audio) / rate == pytest.approx(2.5, abs=0.1)
    middle = audio[int(1.2 * rate) : int(1.3 * rate)]
    assert np.abs(middle).max() < 0.01
    assert np.sqrt(np.mean(audio[int(0.3 * rate) : int(0.7 * rate)] ** 2)) == pytest.approx(0.177, abs=0.02)


def test_a_wav_file_states_its_length(tmp_path: Path) -> None:
    target = tmp_path / "whole.wav"
    render(pieces(tmp_path), target, AudioFormat(encoding=Encoding.WAV), RATE)
    assert target.stat().st_size == 44 + 2 * int(2.5 * RATE)
    assert soundfile.info(target).frames == int(2.5 * RATE)


def test_a_flac_file_states_its_length(tmp_path: Path) -> None:
    target = tmp_path / "whole.flac"
    render(pieces(tmp_path), target, AudioFormat(encoding=Encoding.FLAC), RATE)
    assert soundfile.info(target).frames == int(2.5 * RATE)
