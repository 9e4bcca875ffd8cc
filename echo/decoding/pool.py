"""A few decoding processes: started when they are needed, kept warm, replaced when they fail."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from echo.decoding.process import DecoderProcess
from echo.decoding.refusal import Refusal, Refused
from echo.decoding.stop import Stop
from echo.errors import NotReady
from echo.types import Audio

log = logging.getLogger(__name__)

#: Clips that a process decodes before it is replaced: what a damaged one may have spoilt in it does not last.
_MAX_CLIPS = 200


class DecoderPool:
    """Decodes clips in child processes, ``size`` at a time; who comes when all are busy waits. Thread-safe.

    ``environment`` is what the children get of variables (None: all). ``observe`` is called with the outcome of every
    clip: ``done`` or the name of a `Refusal` in lower case.
    """

    def __init__(
        self,
        size: int = 2,
        *,
        environment: Mapping[str, str] | None = None,
        observe: Callable[[str], None] | None = None,
    ) -> None:
        self._size = size
        self._environment = environment
        self._observe = observe
        self._changed = threading.Condition()
        self._idle: list[DecoderProcess] = []
        self._busy = 0
        self._closed = False
        #: All of them, for the end of an owner who does not close the pool.
        self._children: set[DecoderProcess] = set()
        self._finalizer = weakref.finalize(self, _kill, self._children)

    @property
    def pids(self) -> list[int]:
        """Numbers of the processes that there are."""
        return [child.pid for child in list(self._children)]

    def decode(self, data: bytes, demuxer: str, max_seconds: float, stop: Stop | None = None) -> Audio:
        """Decode the beginning of a file as `clip.decode` does, in a child process.

        Blocks; ``stop`` ends that from another thread, with Stopped. Raises Refused, and NotReady where there is no
        process to be had.
        """
        stop = stop or Stop()
        outcome = "done"
        try:
            with self._child(stop) as child, stop.calling(child.kill):
                try:
                    return child.decode(data, demuxer, max_seconds)
                except Refused as refused:
                    stop.check()
                    self._require_open()
                    outcome = refused.reason.name.lower()
                    if refused.reason in (Refusal.CRASHED, Refusal.TOO_LONG):
                        log.warning(
                            "a decoding process has ended (status %s) over a %s file of %d bytes",
                            child.status,
                            demuxer,
                            len(data),
                        )
                    raise
        except BaseException as error:
            outcome = outcome if isinstance(error, Refused) else "stopped"
            raise
        finally:
            if self._observe is not None:
                self._observe(outcome)

    def close(self) -> None:
        """End all processes; what is being decoded fails with NotReady."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            children = list(self._children)
        for child in children:
            child.kill()
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0, timeout=10)
            idle, self._idle = self._idle, []
        for child in idle:
            self._dismiss(child)

    def _require_open(self) -> None:
        if self._closed:
            raise NotReady("The server is shutting down.", retry_after_s=5)

    @contextmanager
    def _child(self, stop: Stop) -> Iterator[DecoderProcess]:
        """Have a process for the block, and keep it afterwards if it is as good as new."""
        child = self._take(stop)
        try:
            if child is not None and not child.alive:  # ended while nobody used it
                self._dismiss(child)
                child = None
            if child is None:
                child = DecoderProcess(self._environment)
                self._children.add(child)
            yield child
        finally:
            self._give_back(child)

    def _take(self, stop: Stop) -> DecoderProcess | None:
        """Wait for a place; returns an idle process, or None where one is to be started."""
        with stop.calling(self._wake), self._changed:
            while self._busy >= self._size:
                self._require_open()
                stop.check()
                self._changed.wait()
            self._require_open()
            self._busy += 1
            return self._idle.pop() if self._idle else None

    def _give_back(self, child: DecoderProcess | None) -> None:
        keep = child is not None and child.alive and child.clips < _MAX_CLIPS
        if child is not None and not keep:
            self._dismiss(child)
        with self._changed:
            self._busy -= 1
            if keep and child is not None:
                self._idle.append(child)
            self._changed.notify_all()

    def _dismiss(self, child: DecoderProcess) -> None:
        child.close()
        self._children.discard(child)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _kill(children: set[DecoderProcess]) -> None:
    for child in list(children):
        child.kill()
