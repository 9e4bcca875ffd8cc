"""Every command of docs/integrations/curl.md, run by the shell."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import ROOT, Page, aimed
from tests.contract.serving import Served, serving, write_voice

PAGE = Page("curl")


def run(heading: str, server: Served, folder: Path) -> None:
    """Run the commands under a heading in a folder, as in a checkout."""
    script = "set -o errexit -o pipefail\n" + aimed(PAGE.block(heading, "bash"), server)
    if not (folder / "audio_prompts").exists():
        (folder / "audio_prompts").symlink_to(ROOT / "audio_prompts")
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file(checkout: Served, tmp_path: Path) -> None:
    run("A file", checkout, tmp_path)
    audio = decoded((tmp_path / "speech.mp3").read_bytes())
    assert audio.codec == "mp3float"
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_raw_audio(checkout: Served, tmp_path: Path) -> None:
    run("Raw audio while it is made", checkout, tmp_path)
    samples = len((tmp_path / "speech.pcm").read_bytes()) / 2
    assert samples / 44_100 == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_events(checkout: Served, tmp_path: Path) -> None:
    run("Server-sent events", checkout, tmp_path)
    lines = (tmp_path / "speech.sse").read_text().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert events[-1]["type"] == "speech.audio.done"
    audio = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert decoded(audio).codec == "mp3float"


def test_options(checkout: Served, tmp_path: Path) -> None:
    run("Options of this server", checkout, tmp_path)
    assert decoded((tmp_path / "speech.wav").read_bytes()).sample_rate == 24_000
    (spoken,) = checkout.script.spoken
    assert spoken.seed == 42
    assert {block.steps for block in spoken.plan.blocks} == {8}


def test_a_voice_for_one_request(checkout: Served, tmp_path: Path) -> None:
    run("A voice of your own, for one request", checkout, tmp_path)
    assert decoded((tmp_path / "speech.wav").read_bytes()).seconds > 0.5
    (spoken,) = checkout.script.spoken
    assert spoken.voice is not None


def test_a_voice_that_is_kept(tmp_path: Path) -> None:
    heading = "A voice of your own, kept"
    voices = tmp_path / "voices"
    voices.mkdir()
    write_voice(tmp_path / "beth.wav", seconds=2.0)
    settings = PAGE.server_settings(heading).model_copy(update={"voices_dir": (str(voices),)})
    with serving(settings) as server:
        run(heading, server, tmp_path)
        assert json.loads((tmp_path / "clone.json").read_text())["voice"]["voiceId"] == "default__Beth"
        assert decoded((tmp_path / "speech.wav").read_bytes()).seconds > 0.5
        assert server.script.spoken[-1].voice is not None


def test_lists(checkout: Served, tmp_path: Path) -> None:
    run("Lists and health", checkout, tmp_path)
    voices = [voice["id"] for voice in json.loads((tmp_path / "voices.json").read_text())["data"]]
    assert {"tiny_anna", "tiny_beth"} <= set(voices)
    assert "tts-1" in [model["id"] for model in json.loads((tmp_path / "models.json").read_text())["data"]]
    assert json.loads((tmp_path / "health.json").read_text())["status"] == "healthy"


def test_a_key(tmp_path: Path) -> None:
    with serving(PAGE.server_settings("With a key")) as server:
        run("With a key", server, tmp_path)
        assert decoded((tmp_path / "speech.wav").read_bytes()).seconds > 0.5
        run("A file", server, tmp_path)
        assert "error" in json.loads((tmp_path / "speech.mp3").read_text())
