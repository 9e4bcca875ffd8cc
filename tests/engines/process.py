"""An adapter in its own environment, spoken to message by message as the server does."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from echo.engines.remote.config import CHILD
from echo.engines.remote.messages import (
    Cancel,
    Done,
    Failure,
    FromChild,
    FromServer,
    Hello,
    Ping,
    Pong,
    Ready,
    Samples,
    Speak,
    Voice,
    Voiced,
    decode,
    encode,
)
from echo.settings import engine_environment

#: Longer than an engine takes to load, or to speak a sentence, on a busy machine.
PATIENCE_S = 570.0
ALL = 10**9

Kind = TypeVar("Kind")


class RefusedError(Exception):
    """A job or a clip that the adapter has not taken."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.code}: {failure.message}")
        self.code, self.message = failure.code, failure.message


@dataclass(frozen=True)
class Speech:
    """What came of a text: its arrays, and the message at the end."""

    frames: list[np.ndarray]
    last: list[bool]
    done: Done

    @property
    def sizes(self) -> list[int]:
        return [len(frame) for frame in self.frames]

    @property
    def samples(self) -> np.ndarray:
        return np.concatenate(self.frames)


class EngineProcess:
    """A child with one adapter, until ``close``."""

    def __init__(self, python: Path, adapter: str, log: Path, **table: Any) -> None:
        ours, theirs = socket.socketpair()
        self._ids = iter(range(1, ALL))
        self._log = log
        with ours, theirs, log.open("ab") as file:
            self._process = subprocess.Popen(
                [python, "-I", CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=file,
                stderr=file,
                env=engine_environment(),
            )
            self._connection = Connection(os.dup(ours.fileno()))
        engine = {
            "name": adapter,
            "adapter": str(CHILD.with_name(f"{adapter}.py")),
            **{"model": "", "device": "cpu", "dtype": "", "threads": 0, "memory_gb": 0, "options": {}},
            **table,
        }
        try:
            self._send(Hello(engine=engine))
            self.ready = self._until(Ready)
        except BaseException:
            self.close()
            raise

    def voice(self, key: str, pcm: np.ndarray, rate: int) -> Voiced:
        """Send a clip; raises RefusedError."""
        self._send(Voice(id=next(self._ids), key=key, rate=rate, pcm=pcm.astype("<f4").tobytes()))
        return self._until(Voiced)

    def begin(self, text: str, key: str | None = None, seed: int = 0, credit: int = ALL, **options: Any) -> int:
        """Send a text, and return the number of the job."""
        number = next(self._ids)
        self._send(Speak(id=number, text=text, seed=seed, credit=credit, key=key, options=options))
        return number

    def cancel(self, number: int) -> None:
        self._send(Cancel(id=number))

    def end(self) -> Speech:
        """Read a job to its end; raises RefusedError."""
        frames, last = [], []
        while not isinstance(message := self.receive(), Done):
            if isinstance(message, Failure):
                raise RefusedError(message)
            assert isinstance(message, Samples)
            assert message.seq == len(frames)
            frames.append(np.frombuffer(message.pcm, "<f4"))
            last.append(message.last)
        return Speech(frames, last, message)

    def speak(self, text: str, key: str | None = None, seed: int = 0, **options: Any) -> Speech:
        """Speak a text; raises RefusedError."""
        self.begin(text, key, seed, **options)
        return self.end()

    def steps(self) -> int:
        """How many steps the process has made so far."""
        self._send(Ping(n=1))
        return self._until(Pong).steps

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def receive(self) -> FromChild:
        """Return the next message."""
        try:
            assert self._connection.poll(PATIENCE_S), "waited in vain"
            return decode(self._connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise AssertionError(f"the process has ended:\n{self._log.read_text()[-5000:]}") from error

    def _send(self, message: FromServer) -> None:
        self._connection.send_bytes(encode(message))

    def _until(self, kind: type[Kind]) -> Kind:
        while not isinstance(message := self.receive(), kind):
            if isinstance(message, Failure):
                raise RefusedError(message)
        return message


@contextmanager
def running(python: Path, adapter: str, log: Path, **table: Any) -> Iterator[EngineProcess]:
    """A process that ends with the block, in which it may also fail to start."""
    process = EngineProcess(python, adapter, log, **table)
    try:
        yield process
    finally:
        process.close()
