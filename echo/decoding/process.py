"""One decoding process, seen from its owner: started, given a clip at a time, and killed when it misbehaves."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np

from echo.decoding.limits import WALL_SECONDS
from echo.decoding.refusal import Refusal, Refused
from echo.decoding.wire import ANSWER, READY, REQUEST
from echo.errors import NotReady
from echo.types import SAMPLE_RATE, Audio

#: More than a child takes to load its libraries from a slow disk, with much else going on.
_START_SECONDS = 60.0
#: A child's own clock ends it first, where it has one.
_GRACE_SECONDS = 5.0
#: Runs the child with the module path of its owner, which may not be installed and need not be in its directory.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from echo.decoding.child import main; main()"
#: What ends a child that has used up its time.
_TIME_SIGNALS = frozenset(getattr(signal, name) for name in ("SIGALRM", "SIGXCPU") if hasattr(signal, name))
#: What a child itself may refuse.
_FOUND_BY_CHILD = frozenset({Refusal.UNDECODABLE, Refusal.CHANNELS, Refusal.MEMORY})


class DecoderProcess:
    """A child that decodes. Used by one thread at a time; ``kill`` may be called from any.

    Of its owner's it has only standard error and two pipes: no sockets, no memory, no device. Raises NotReady where it
    cannot be started.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.clips = 0
        try:
            # Isolated, so that neither the directory it starts in nor PYTHON variables put other code in its way; in a
            # session of its own, so that Ctrl-C in a terminal reaches only the owner.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, json.dumps([path for path in sys.path if path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise _no_process() from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout
        with self._within(_START_SECONDS):
            ready = self._stdout.read(len(READY))
        if ready != READY:
            self.close()
            raise _no_process()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once it has ended."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended: its exit status, or less than 0 for a signal; None while it runs."""
        return self._process.poll()

    def decode(self, data: bytes, demuxer: str, max_seconds: float) -> Audio:
        """Decode one clip; raises Refused. After CRASHED or TOO_LONG the process is gone."""
        self.clips += 1
        with self._within(WALL_SECONDS + _GRACE_SECONDS) as expired:
            with contextlib.suppress(OSError):  # it has gone
                self._stdin.write(REQUEST.pack(demuxer.encode(), max_seconds, len(data)))
                self._stdin.write(data)
                self._stdin.flush()
                if (audio := self._answer(round(max_seconds * SAMPLE_RATE))) is not None:
                    return audio
            self.close()
        late = expired.is_set() or -(self.status or 0) in _TIME_SIGNALS
        raise Refused(Refusal.TOO_LONG if late else Refusal.CRASHED)

    def kill(self) -> None:
        """End it at once, whatever it is doing; its ``decode`` raises."""
        self._process.kill()

    def close(self) -> None:
        """End it, close the pipes, and wait for the process."""
        self.kill()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):  # of what was still to be written
                pipe.close()
        self._process.wait()

    def _answer(self, most: int) -> Audio | None:
        """Read what the child has found; None where it has gone, or says what no child of ours would."""
        head = self._stdout.read(ANSWER.size)
        if len(head) < ANSWER.size:
            return None
        reason, samples = ANSWER.unpack(head)
        if reason in _FOUND_BY_CHILD:
            raise Refused(Refusal(reason))
        if reason != 0 or samples > most:
            return None
        audio = np.empty(samples, np.float32)
        target = audio.data.cast("B")
        while len(target):
            count = self._stdout.readinto(target)  # type: ignore[attr-defined]  # it is a buffered reader
            if not count:
                return None
            target = target[count:]
        return audio

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[threading.Event]:
        """Kill the process when the block takes longer; the event tells."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()


def _no_process() -> NotReady:
    return NotReady("The server cannot start a process to decode audio in. Try again later.", retry_after_s=30)
