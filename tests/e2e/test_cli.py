"""``python -m echo`` as a process: files out of texts, and one line for whoever got something wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from echo.audio.pcm import to_bytes
from echo.text.captions import SHORTEST_S
from tests.e2e.listening import decoded
from tests.e2e.server_process import QUICK, clean_environment
from tests.processes import PATIENCE_S, ROOT
from tests.unit.voices.voice_files import encoded_as, tone
from train.tiny.prompts import VOICES


def echo(folder: Path, *arguments: str, stdin: str = "", **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "echo", *arguments],
        cwd=folder,
        env=clean_environment(PYTHONPATH=ROOT, **settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_say_writes_files_and_shows_its_progress_on_standard_error(tmp_path: Path) -> None:
    options = ["--voice", "tiny_dan", "--seed", "1", "-o", "out.mp3", "--subtitles", "out.vtt"]
    done = echo(tmp_path, "say", "-", *options, stdin="Written to a file. And read.")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "out.mp3" in done.stderr
    assert " INFO " not in done.stderr
    assert "estimated" not in done.stderr
    assert "Traceback" not in done.stderr
    samples, rate = decoded((tmp_path / "out.mp3").read_bytes())
    assert rate == 44_100
    assert 0.5 < len(samples) / rate < 5
    assert np.abs(samples).max() > 0.1
    head, first, second = (tmp_path / "out.vtt").read_text().rstrip("\n").split("\n\n")
    assert (head, first.split("\n")[1:], second.split("\n")[1:]) == ("WEBVTT", ["Written to a file."], ["And read."])
    edges = [float(edge[-6:]) for cue in (first, second) for edge in cue.split("\n")[0].split(" --> ")]
    assert edges == sorted(edges)
    assert edges[2] < len(samples) / rate
    assert edges[3] <= len(samples) / rate + SHORTEST_S


def test_say_with_an_unknown_voice_fails_with_one_line_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(b"what was there before")
    done = echo(tmp_path, "--model", "tiny", "say", "Hello.", "--voice", "nobody", "-o", "speech.wav", **QUICK)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("echo-tts: ")]
    assert line == "echo-tts: Unknown voice 'nobody'. The available voices are listed by `echo-tts voices`."
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == b"what was there before"


def test_say_with_a_model_that_is_not_there_fails_with_one_line(tmp_path: Path) -> None:
    done = echo(tmp_path, "--model", "no-such-model", "say", "Hello.")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("echo-tts: ")]
    assert "no-such-model" in line
    assert "Traceback" not in done.stderr


def test_voices_are_listed_without_loading_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from echo.cli import main; status = main(['voices']); sys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(VOICES)


def test_say_speaks_like_a_clip_with_eight_channels_and_leaves_no_process(tmp_path: Path) -> None:
    clip = encoded_as("ipod", "aac", "7.1", np.repeat(tone(1.0, rate=48_000), 8))
    (tmp_path / "clip.m4a").write_bytes(clip)
    done = echo(tmp_path, "say", "Hello.", "--voice", "clip.m4a", "--seed", "1", "-o", "out.wav", **QUICK)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr
    samples, rate = decoded((tmp_path / "out.wav").read_bytes())
    assert len(samples) / rate > 0.1


def test_a_text_with_nothing_to_speak_is_a_short_silence(tmp_path: Path) -> None:
    done = echo(tmp_path, "say", "*sighs*", "-o", "sigh.flac", **QUICK)
    assert done.returncode == 0, done.stderr
    samples, rate = decoded((tmp_path / "sigh.flac").read_bytes())
    assert len(samples) == rate // 10
    assert not samples.any()


def test_a_book_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    (tmp_path / "book.md").write_text(
        "# One\n\nIt rained.\n\n# Two\n\n" + "It would not stop, whatever they did. " * 60
    )
    slow = tmp_path / "presets.toml"
    quick = QUICK["ECHO_PRESETS_FILE"].read_text()
    slow.write_text(quick.replace("steps = [1]", "steps = [60]").replace("[16]", "[32]"))
    say = ["say", "--file", "book.md", "-o", "book.flac", "--voice", "tiny_anna", "--subtitles", "book.srt"]
    parts = tmp_path / "book.flac.parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "echo", *say],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=ROOT, ECHO_PRESETS_FILE=slow),  # it is stopped long before its end
        stderr=subprocess.PIPE,
        text=True,
    )
    first = parts / "000000.pcm"
    deadline = time.monotonic() + PATIENCE_S
    while not first.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    first.write_bytes(to_bytes(np.full(44_100, 0.5, np.float32)))  # tells whether it is used
    done = echo(tmp_path, *say, **QUICK)
    assert done.returncode == 0, done.stderr
    samples, rate = decoded((tmp_path / "book.flac").read_bytes())
    assert np.allclose(samples[: rate // 2], 0.5, atol=0.01)
    assert len(samples) / rate > 4
    assert not parts.exists()
    words = " ".join(line for line in (tmp_path / "book.srt").read_text().split("\n") if line and line[0].isalpha())
    assert words == "One It rained. Two " + " ".join(["It would not stop, whatever they did."] * 60)


def test_bench_tells_first_sound_and_real_time_factor(tmp_path: Path) -> None:
    done = echo(tmp_path, "--model", "tiny", "bench", "--times", "1", "--voice", "tiny_anna", **QUICK)
    assert done.returncode == 0, done.stderr
    first, heading, *rows, last = done.stdout.splitlines()
    assert "cpu" in first
    assert "first sound" in heading
    assert len(rows) == 3
    assert "heard" in last


def test_serve_takes_the_servers_options(tmp_path: Path) -> None:
    done = echo(tmp_path, "serve", "--port", "70000")
    assert done.returncode == 2
    assert "PORT" in done.stderr
    assert "Traceback" not in done.stderr
