"""One engine process and its three threads: messages from it, messages to it, and its output for the log."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import msgspec

from echo.engines.remote.messages import MAX_BYTES, FromChild, FromServer, decode, encode

log = logging.getLogger(__name__)

#: Lines of a process that are kept to be shown when it has failed.
KEPT_LINES = 50
#: Lines that go to the log in a second; a progress bar must not fill the disk.
LINES_PER_S = 50
#: What is longer without an end of line is cut there, in bytes.
_LONGEST_LINE = 4096
_LINE_END = re.compile(rb"[\r\n]+")
#: What moves a terminal's cursor or colours its text; of ECMA-48.
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
#: A progress bar, and its label.
_BAR = re.compile(r"(.*?)\d%\|")
#: A bar, such as that of a download of gigabytes, is shown so often, in seconds.
_BAR_S = 5.0
_LEVELS = (("CRITICAL", logging.ERROR), ("ERROR", logging.ERROR), ("WARNING", logging.WARNING))


@dataclass(frozen=True, slots=True)
class Received:
    """A message of a process."""

    link: ChildLink
    message: FromChild


@dataclass(frozen=True, slots=True)
class Gone:
    """The process has closed the connection, or said what is no message; nothing more will come from it."""

    link: ChildLink
    reason: str
    closed: bool


class ChildLink:
    """A process that is running an engine. ``post`` is called, from another thread, with all that comes from it.

    The process gets one inherited socket as a file descriptor, whose number is the last argument of its command, and
    a session of its own. Raises OSError where it cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        post: Callable[[Received | Gone], None],
    ) -> None:
        self._name = name
        self._post = post
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = False
        #: When each progress bar was shown last.
        self._bars: dict[str, float] = {}
        #: Keys of the voices that the process has been given.
        self.voices: set[str] = set()
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=folder,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except BaseException:
            self._socket.close()
            raise
        # A descriptor of its own: the socket stays valid for ``kill`` while a thread reads from the connection.
        self._connection = Connection(os.dup(self._socket.fileno()))
        assert self._process.stdout is not None
        self._printer = self._thread("log", self._forward, self._process.stdout)
        self._reader = self._thread("read", self._read)
        self._writer = self._thread("write", self._write)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def last_lines(self) -> list[str]:
        """What the process has printed last."""
        return list(self._lines)

    def send(self, message: FromServer) -> None:
        """Queue a message; returns at once, whether or not the process reads."""
        self._outgoing.put(encode(message))

    def kill(self) -> None:
        """End the process and all that it has started, at once; ``Gone`` follows."""
        if not self._ended:
            with contextlib.suppress(OSError):  # there is none left
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):  # it is shut already
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self, patience_s: float) -> str:
        """Wait for the end of the process, kill it when that takes too long, and describe how it ended."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self.kill()  # what it has started may live on, and keeps the group's number taken
        self._ended = True
        self._outgoing.put(None)
        for thread in (self._writer, self._reader, self._printer):
            thread.join(1.0)  # a grandchild in another session may still hold the pipe
        self._connection.close()
        self._socket.close()
        status = self._process.returncode
        return f"exit status {status}" if status >= 0 else f"signal {-status}"

    def _thread(self, what: str, run: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=run, args=arguments, name=f"{self._name}-{what}", daemon=True)
        thread.start()
        return thread

    def _read(self) -> None:
        reason, closed = "it has closed the connection", False
        try:
            while True:
                self._post(Received(self, decode(self._connection.recv_bytes(MAX_BYTES))))
        except (EOFError, ConnectionError):
            closed = True
        except OSError as error:
            reason = f"its message cannot be read: {error}"
        except msgspec.DecodeError as error:
            reason = f"what it says is no message: {error}"
        self._post(Gone(self, reason, closed))

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # the process has gone: the reader tells
            while (data := self._outgoing.get()) is not None:
                self._connection.send_bytes(data)

    def _forward(self, pipe: IO[bytes]) -> None:
        """Pass on to the log what the process prints, line by line."""
        rest, second, count = b"", 0, 0
        with pipe:
            while data := os.read(pipe.fileno(), 2**16):
                *lines, rest = _LINE_END.split(rest + data)
                if len(rest) > _LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in filter(None, lines):
                    if not (text := _text(line)):
                        continue
                    self._lines.append(text)
                    now = int(time.monotonic())
                    if now != second:
                        self._note_left_out(count)
                        second, count = now, 0
                    count += 1
                    if count <= LINES_PER_S:
                        log.log(self._level(text), "%s: %s", self._name, text)
            self._note_left_out(count)
        if text := _text(rest):
            self._lines.append(text)
            log.log(self._level(text), "%s: %s", self._name, text)

    def _level(self, text: str) -> int:
        if bar := _BAR.match(text):
            label, now = bar[1].rstrip(" 0123456789"), time.monotonic()
            if now - self._bars.get(label, -_BAR_S) >= _BAR_S:
                self._bars = {name: shown for name, shown in self._bars.items() if now - shown < _BAR_S} | {label: now}
                return logging.INFO
        return next((level for word, level in _LEVELS if word in text), logging.DEBUG)

    def _note_left_out(self, count: int) -> None:
        if count > LINES_PER_S:
            log.debug("%s: (%d lines are left out)", self._name, count - LINES_PER_S)


def _text(line: bytes) -> str:
    return _ESCAPE.sub("", line[:_LONGEST_LINE].decode(errors="replace")).rstrip()
