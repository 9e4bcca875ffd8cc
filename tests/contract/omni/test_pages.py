"""The code of docs/integrations/omni.md and agent.md, run as it stands there."""

from __future__ import annotations

import base64
import json
import runpy
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Served, serving, wait_until, write_voice

OMNI, AGENT = Page("omni"), Page("agent")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str, server: Served) -> None:
    Path("example.py").write_text(aimed(code, server), encoding="utf-8")
    runpy.run_path("example.py", run_name="__main__")


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


def test_text_while_it_is_written(checkout: Served) -> None:
    run(OMNI.block("Text while it is written", "python"), checkout)
    assert spoken(checkout) == ["The rain has stopped.", "We can go."]
    seconds = len(Path("speech.pcm").read_bytes()) / 2 / 44_100
    assert seconds == pytest.approx(spoken_seconds(checkout), abs=0.5)


def test_several_texts_at_once(checkout: Served) -> None:
    script = aimed(OMNI.block("Several texts at once", "bash"), checkout)
    subprocess.run(["bash", "-ec", script], check=True, timeout=30)
    results = json.loads(Path("batch.json").read_text())["results"]
    assert [decoded(base64.b64decode(result["audio_data"])).codec for result in results] == ["pcm_s16le"] * 2


def test_a_voice_of_your_own(tmp_path: Path) -> None:
    heading = "A voice of your own"
    voices = tmp_path / "voices"
    voices.mkdir()
    write_voice(tmp_path / "ada.wav", seconds=2.0)
    settings = OMNI.server_settings(heading).model_copy(update={"voices_dir": (str(voices),)})
    with serving(settings) as server:
        run(OMNI.block(heading, "python"), server)
        assert decoded(Path("speech.wav").read_bytes()).seconds > 0.5
        assert server.script.spoken[-1].voice is not None


class LanguageModel:
    """Answers chats with fixed answers, token by token, and notes what it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Serve OpenAI's protocol on a port."""
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.asked.append(body["messages"])
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for token in model.answers.pop(0):
                    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
                    choice = {"index": 0, "delta": {"content": token}, "finish_reason": None}
                    self.wfile.write(b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n")
                    self.wfile.flush()
                self.wfile.write(b"data: [DONE]\n\n")

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(PATIENCE_S)
            server.server_close()


def test_the_loop(checkout: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = tmp_path / "bin" / "ffplay"
    player.parent.mkdir()
    player.write_text('#!/bin/sh\necho "$@" > arguments.txt\ncat > heard.pcm\n')
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(player.parent), prepend=":")
    lines = iter(["Is it raining?", "Good.", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    model = LanguageModel(["No", ", it has", " stop", "ped", ". You", " can go."], ["Take", " care!"])
    code = AGENT.block("The loop", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    with model.serving() as port:
        run(code.replace("127.0.0.1:11434", f"127.0.0.1:{port}"), checkout)
    assert spoken(checkout) == ["No,", "it has stopped.", "You can go.", "Take care."]
    assert model.asked[1] == [
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "content": "No, it has stopped. You can go."},
        {"role": "user", "content": "Good."},
    ]
    assert "s16le -ar 44100" in (tmp_path / "arguments.txt").read_text()
    seconds = len((tmp_path / "heard.pcm").read_bytes()) / 2 / 44_100
    assert seconds == pytest.approx(spoken_seconds(checkout), abs=1.0)


def test_the_loop_listens_while_the_model_still_writes(
    checkout: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model goes on only once the player has heard its first clause."""
    player = tmp_path / "bin" / "ffplay"
    player.parent.mkdir()
    player.write_text("#!/bin/sh\ndd bs=1 count=1000 of=first.pcm 2>/dev/null\ntouch heard\ncat > /dev/null\n")
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(player.parent), prepend=":")
    lines = iter(["Hello?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    heard: list[bool] = []

    def tokens() -> Iterator[str]:
        yield from ("Well,", " this")
        deadline = threading.Event()
        for _ in range(int(PATIENCE_S * 50)):
            if (tmp_path / "heard").exists():
                break
            deadline.wait(0.02)
        heard.append((tmp_path / "heard").exists())
        yield " is the rest."

    model = LanguageModel()
    model.answers.append(tokens())  # type: ignore[arg-type]
    with model.serving() as port:
        run(AGENT.block("The loop", "python").replace("127.0.0.1:11434", f"127.0.0.1:{port}"), checkout)
    assert heard == [True]
    assert spoken(checkout) == ["Well,", "this is the rest."]


def test_the_loop_reads_on_while_the_player_plays(
    checkout: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings would wait behind audio that nobody reads, and the connection be taken for dead."""
    player = tmp_path / "bin" / "ffplay"
    player.parent.mkdir()
    player.write_text("#!/bin/sh\nuntil [ -e play ]; do sleep 0.1; done\ncat > heard.pcm\n")
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(player.parent), prepend=":")
    lines = iter(["Tell me a story.", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    sentences = [f"This is sentence number {number} of the story. " for number in range(70)]
    sent: list[bool] = []

    def play() -> None:
        try:
            wait_until(lambda: len(checkout.script.spoken) == len(sentences), 3 * PATIENCE_S)
            checkout.wait_idle()
            sent.append(True)
        finally:
            Path("play").touch()

    with LanguageModel(sentences).serving() as port:
        playing = threading.Thread(target=play)
        playing.start()
        run(AGENT.block("The loop", "python").replace("127.0.0.1:11434", f"127.0.0.1:{port}"), checkout)
        playing.join()
    assert sent
    seconds = (tmp_path / "heard.pcm").stat().st_size / 2 / 44_100
    assert seconds == pytest.approx(spoken_seconds(checkout), rel=0.2)
