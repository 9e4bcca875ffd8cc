"""Processes that tests start: each is gone at the end of its context, and its log can be read meanwhile."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
#: Far longer than anything here takes on a slow machine: whoever waits this long hangs.
PATIENCE_S = 120.0


def eventually(condition: Callable[[], bool], what: str, pause_s: float = 0.02) -> None:
    """Wait for another process to get there, asking every ``pause_s``; fails when it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(pause_s)


def free_port() -> int:
    """Return a port of loopback for a program that has to be told one.

    From below those that the system gives to connections and to servers without a port of their own: between this look
    and the program's start, hardly anybody else takes it.
    """
    while True:
        port = 15_000 + secrets.randbelow(15_000)  # not seeded, as other generators are, alike in all test processes
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def copy_bundled_voices(folder: Path) -> Path:
    """Copy the clips that come with the server into a folder of the test's own; returns the folder."""
    for clip in (ROOT / "audio_prompts").glob("*.flac"):
        shutil.copy(clip, folder)
    return folder


class LoggedProcess:
    """A running process that writes a log; leaving the context ends it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """Everything said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for_log(self, text: str) -> None:
        """Wait for a text in the log."""
        eventually(lambda: text in self.log or not self.running, f"{text!r} in {self.log}")
        assert text in self.log, self.log
