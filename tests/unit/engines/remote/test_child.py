"""The child's program seen from the socket: what a server of another version, or none at all, makes it do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from echo.engines.remote.config import CHILD
from tests.unit.engines.remote.processes import ADAPTER, PATIENCE_S


class Child:
    """A child, and what a server would say to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(CHILD), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.DEVNULL,
            )
            self._connection = Connection(os.dup(ours.fileno()))

    def send(self, kind: str, **fields: Any) -> None:
        self._connection.send_bytes(msgspec.msgpack.encode({"t": kind, **fields}))

    def receive(self) -> dict[str, Any]:
        assert self._connection.poll(PATIENCE_S)
        message: dict[str, Any] = msgspec.msgpack.decode(self._connection.recv_bytes())
        return message

    def until(self, kind: str) -> dict[str, Any]:
        while (message := self.receive())["t"] != kind:
            pass
        return message

    def load(self, **options: Any) -> None:
        self.send("hello", protocol=1, engine={"adapter": str(ADAPTER), "options": options})
        self.until("ready")

    def hang_up(self) -> None:
        self._connection.close()

    def status(self) -> int:
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.hang_up()
    child.process.kill()
    child.process.wait()


def test_another_protocol_is_refused(child: Child) -> None:
    child.send("hello", protocol=2, engine={})
    message = child.receive()
    assert (message["t"], message["fatal"], message["id"]) == ("error", True, None)
    assert child.status() == 1


def test_an_unknown_message_is_fatal(child: Child) -> None:
    child.send("sing")
    assert child.receive()["fatal"]
    child.status()


def test_it_ends_with_the_server_even_while_it_works(child: Child) -> None:
    child.load(step_s=0.05)
    child.send("speak", id=1, text="word " * 1000, seed=0, credit=10**9)
    child.until("audio")
    child.hang_up()
    child.status()


def test_it_answers_while_it_loads_and_while_it_works(child: Child, tmp_path: Path) -> None:
    options = {"load_until": str(tmp_path / "go on"), "step_s": 0.05}
    child.send("hello", protocol=1, engine={"adapter": str(ADAPTER), "options": options})
    child.send("ping", n=1)
    child.until("pong")
    (tmp_path / "go on").touch()
    child.until("ready")
    child.send("speak", id=7, text="word " * 1000, seed=0, credit=10**9)
    child.until("audio")
    child.send("ping", n=2)
    pong = child.until("pong")
    assert (pong["n"], pong["busy_id"]) == (2, 7)
    assert pong["steps"] > 0
    assert pong["memory"] > 0 or sys.platform != "linux"


def test_without_credit_it_sends_no_more(child: Child) -> None:
    child.load()
    child.send("speak", id=1, text="word " * 10, seed=0, credit=1)
    assert child.until("audio")["seq"] == 0
    child.send("ping", n=1)
    assert child.receive()["t"] == "pong"
    child.send("credit", id=1, samples=2400)
    assert child.receive()["seq"] == 1
    child.send("cancel", id=1)
    assert child.until("done")["cancelled"]


def test_a_voice_that_it_has_not_or_not_any_more(child: Child) -> None:
    child.load()
    child.send("speak", id=1, text="voice", seed=0, credit=10**9, key="k")
    error = child.receive()
    assert (error["id"], error["code"], error["fatal"]) == (1, "voice_unknown", False)
    child.send("voice", id=2, key="k", rate=44_100, pcm=b"\0\0\0\0" * 100)
    assert child.receive()["t"] == "voiced"
    child.send("forget", key="k")
    child.send("speak", id=3, text="voice", seed=0, credit=10**9, key="k")
    assert child.receive()["code"] == "voice_unknown"


def test_shutdown_lets_a_job_end(child: Child) -> None:
    child.load(step_s=0.05)
    child.send("speak", id=1, text="one two three", seed=0, credit=10**9)
    child.send("shutdown", grace_s=PATIENCE_S)
    assert not child.until("done")["cancelled"]
    assert child.status() == 0


def test_a_package_comes_before_an_adapter_of_the_same_name(child: Child, tmp_path: Path) -> None:
    adapter = tmp_path / "wave.py"
    adapter.write_text(
        "import helper\nimport wave\n"
        "class Adapter:\n"
        "    def load(self, settings):\n"
        "        return {'name': wave.Wave_read.__name__ + helper.MARK, 'sample_rate': 24_000}\n"
    )
    (tmp_path / "helper.py").write_text("MARK = '!'\n")
    child.send("hello", protocol=1, engine={"adapter": str(adapter), "options": {}})
    while (message := child.receive())["t"] == "loading":
        pass
    assert (message["t"], message.get("name")) == ("ready", "Wave_read!"), message
