"""The thread that owns an engine's process: starts it, watches it, and starts it again."""

from __future__ import annotations

import logging
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from enum import Enum
from pathlib import Path

from echo.engines.remote.config import CHILD, RemoteConfig
from echo.engines.remote.dispatch import Dispatcher
from echo.engines.remote.health import Backoff, Pulse, RemoteRules
from echo.engines.remote.link import ChildLink, Gone, Received
from echo.engines.remote.messages import (
    PROTOCOL,
    Done,
    Failure,
    FromChild,
    Hello,
    Loading,
    Ping,
    Pong,
    Ready,
    Samples,
    Shutdown,
    Voiced,
)
from echo.errors import LoadError, NotReady
from echo.stream import FrameStream
from echo.types import Utterance, Workload

log = logging.getLogger(__name__)

#: The thread looks at clocks at least so often, in seconds.
_LOOK_S = 0.25
#: One who looks again only after so many seconds more was stopped, or had no core.
_LATE_S = 1.0
#: What a process that is ending gets for it, in seconds.
_LAST_S = 1.0


class _State(Enum):
    LOADING = "loading"  # the process runs and is not ready yet
    READY = "ready"
    DOWN = "down"  # it has failed and starts again later
    IDLE = "idle"  # it was stopped for want of work
    ENDED = "ended"


class Supervisor:
    """Runs an engine in a child process. Thread-safe; all of its state belongs to its thread or is under its lock.

    ``first_ready`` is done when the process is ready for the first time, or has failed to be: with LoadError.
    """

    def __init__(
        self,
        config: RemoteConfig,
        rules: RemoteRules,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._rules = rules
        self._environment = dict(environment)
        if config.table.threads:
            self._environment["OMP_NUM_THREADS"] = str(config.table.threads)
        self._clock = clock
        self.first_ready: Future[Ready] = Future()
        self._lock = threading.Lock()
        self._jobs = Dispatcher(config.name, rules.credit, clock, self._wake)
        self._backoff = Backoff(rules)
        self._pulse = Pulse(rules, clock())
        self._looked_at = clock()
        #: Messages of the process; None only wakes the thread.
        self._inbox: queue.SimpleQueue[Received | Gone | None] = queue.SimpleQueue()
        self._closing = False
        self._state = _State.DOWN
        self._link: ChildLink | None = None
        self._ready: Ready | None = None
        self._load_s = 0.0
        #: Host memory of the process, as it has last said, and how many have failed.
        self._memory = self._restarts = 0
        self._began = self._retry_at = self._ready_at = self._worked_at = clock()
        #: Since when there is no process that is ready, because one has failed.
        self._down_since: float | None = None
        self._folder = Path(tempfile.mkdtemp(prefix=f"echo-{config.name}-"))
        self._thread = threading.Thread(target=self._run, name=f"{config.name}-engine", daemon=True)
        self._thread.start()

    # -- from any thread

    def submit(self, utterance: Utterance) -> FrameStream:
        """Queue an utterance; its stream ends with NotReady when the server is closing."""
        return self._jobs.submit(utterance)

    def queue_wait(self) -> float:
        """Estimate how long an utterance, submitted now, would wait, in seconds."""
        with self._lock:
            if self._ready is None:
                return 0.0
            wait = self._jobs.wait_s(self._ready)
            now = self._clock()
            match self._state:
                case _State.DOWN:
                    return wait + max(0.0, self._retry_at - now) + self._load_s
                case _State.LOADING:
                    return wait + max(0.0, self._began + self._load_s - now)
                case _State.IDLE:
                    return wait + self._load_s
                case _:
                    return wait

    def workload(self) -> Workload:
        """Current queue, and how the process is."""
        queue = self._jobs.workload(self.queue_wait(), self._pulse.moved_at)
        return replace(queue, process_bytes=self._memory if self._link is not None else 0, restarts=self._restarts)

    def reset_pace(self) -> None:
        """Measure the pace afresh."""
        self._jobs.reset_pace()

    @property
    def pid(self) -> int | None:
        """Number of the process; None while there is none."""
        link = self._link
        return link.pid if link is not None else None

    @property
    def alive(self) -> bool:
        """False once this object's own thread has ended."""
        return self._thread.is_alive()

    @property
    def available(self) -> bool:
        """False while the process has failed and is not ready again."""
        with self._lock:
            return self._state in (_State.READY, _State.IDLE) or (
                self._state is _State.LOADING and self._down_since is None
            )

    def close(self) -> None:
        """Fail what is left and end the process."""
        self._closing = True
        self._wake()
        self._thread.join(self._rules.grace + 10)
        if self._thread.is_alive():
            log.error("%s: the thread of the engine does not end", self._config.name)
            self.give_up()

    def give_up(self) -> None:
        """Fail everything and kill the process, without waiting for this object's thread."""
        self._jobs.refuse(NotReady("The engine has stopped.", retry_after_s=30))
        if self._link is not None:
            self._link.kill()

    def _wake(self) -> None:
        self._inbox.put(None)

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._advance(self._clock())
                self._take_messages()
        except BaseException:
            log.exception("%s: the engine's thread has failed", self._config.name)
        finally:
            self._end()

    def _take_messages(self) -> None:
        wait = _LOOK_S
        if self._state is _State.DOWN:
            wait = min(wait, max(0.0, self._retry_at - self._clock()))
        try:
            event = self._inbox.get(timeout=wait)
            while True:
                if event is not None and event.link is self._link:  # not of a process that was given up
                    if isinstance(event, Gone):
                        self._give_up_process(event.reason, ending=event.closed)
                    else:
                        self._receive(event.link, event.message)
                event = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _advance(self, now: float) -> None:
        """Do what is due by the clock and by the queue."""
        self._jobs.drop_cancelled()
        match self._state:
            case _State.DOWN:
                self._refuse_overdue(now)
                if now >= self._retry_at:
                    self._start(now)
            case _State.IDLE:
                if self._jobs.waiting:
                    self._start(now)
            case _State.LOADING:
                self._refuse_overdue(now)
                self._watch(now)
            case _State.READY:
                self._serve(now)
                self._watch(now)

    def _start(self, now: float) -> None:
        self._began = now
        self._memory = 0
        self._pulse = Pulse(self._rules, now)
        self._looked_at = now
        self._set(_State.LOADING)
        try:
            self._link = ChildLink(
                self._config.name,
                [*self._config.command, "-I", str(CHILD)],
                environment=self._environment,
                folder=self._folder,
                post=self._inbox.put,
            )
        except OSError as error:
            self._give_up_process(f"its process cannot be started: {error}")
            return
        table = self._config.table
        engine = {
            name: getattr(table, name) for name in ("model", "device", "dtype", "threads", "memory_gb", "options")
        }
        self._link.send(Hello(engine={"name": self._config.name, "adapter": str(self._config.adapter), **engine}))

    def _serve(self, now: float) -> None:
        """Give the process its work, or stop it where there has been none for long."""
        link, ready = self._link, self._ready
        assert link is not None
        assert ready is not None
        was_busy = self._jobs.busy
        self._jobs.serve(link, ready, now)
        if self._jobs.busy and not was_busy:
            self._pulse.moved(now)  # until now there was nothing to do
        if self._jobs.busy or self._jobs.waiting:
            self._worked_at = now
        elif 0 < self._rules.idle_stop <= now - self._worked_at:
            log.info("%s: stopped after %.0f s without work", self._config.name, now - self._worked_at)
            self._set(_State.IDLE)
            self._stop(link)

    def _watch(self, now: float) -> None:
        """Ping the process, and kill it when it does not answer or makes no step."""
        link = self._link
        if link is None:  # just stopped
            return
        if (away := now - self._looked_at) > _LOOK_S + _LATE_S:
            self._pulse.stood_still(away)
        self._looked_at = now
        if fault := self._pulse.fault(now, busy=self._jobs.busy):
            self._give_up_process(fault)
        elif (number := self._pulse.next_ping(now)) is not None:
            link.send(Ping(n=number))

    def _receive(self, link: ChildLink, message: FromChild) -> None:
        now, name = self._clock(), self._config.name
        match message:
            case Pong():
                self._memory = message.memory
                self._pulse.answered(message, now)
            case Loading():
                log.info("%s: loading: %s", name, message.stage)
            case Ready():
                self._accept_ready(message, now)
            case Voiced():
                log.debug("%s: voice %s is encoded, %d bytes", name, message.key[:8], message.nbytes)
            case Samples() if self._ready is not None:
                self._pulse.moved(now)
                if fault := self._jobs.deliver(link, message, self._ready.sample_rate, now):
                    self._give_up_process(fault)
            case Done() if self._ready is not None:
                self._pulse.moved(now)
                self._jobs.finish(message, self._ready.sample_rate, now)
            case Failure():
                if message.id is None:
                    log.error("%s: %s: %s", name, message.code, message.message)
                else:
                    self._jobs.fail(link, message, self._ready)
                if message.fatal or self._jobs.out_of_memory > 1:
                    self._give_up_process(f"{message.code}: {message.message}", ending=message.fatal)

    def _accept_ready(self, ready: Ready, now: float) -> None:
        first = self._ready is None
        if ready.protocol != PROTOCOL or ready.sample_rate < 1 or ready.limits.concurrent < 1:
            self._give_up_process(f"it speaks protocol {ready.protocol} at {ready.sample_rate} Hz")
            return
        if self._ready is not None and ready.sample_rate != self._ready.sample_rate:
            self._give_up_process(f"its rate has changed from {self._ready.sample_rate} to {ready.sample_rate} Hz")
            return
        self._load_s = now - self._began
        self._worked_at = self._ready_at = now
        self._down_since = None
        with self._lock:
            self._ready, self._state = ready, _State.READY
        log.info("%s: %s %s is ready after %.1f s", self._config.name, ready.name, ready.version, self._load_s)
        if first:
            log.info("%s: it is under this licence: %s", self._config.name, ready.license)
            self.first_ready.set_result(ready)

    def _give_up_process(self, reason: str, *, ending: bool = False) -> None:
        """Fail what the process was working on, and start it again later.

        ``ending``: it is about to end by itself, and its exit status may tell more.
        """
        now = self._clock()
        link, self._link = self._link, None
        ended, lines = "not started", []
        if link is not None:
            ended = link.end(_LAST_S if ending else 0.0)
            lines = link.last_lines
        wait = self._backoff.next_wait(now - self._ready_at if self._state is _State.READY else 0.0)
        with self._lock:
            self._state, self._retry_at = _State.DOWN, now + wait
            self._down_since = now if self._down_since is None else self._down_since
        self._jobs.lose(retry_after_s=max(1.0, wait + self._load_s))
        last = "".join(f"\n    {line}" for line in lines)
        log.error(
            "%s: the engine's process has failed: %s (%s); its last lines:%s", self._config.name, reason, ended, last
        )
        if self._ready is None:
            self._closing = True
            line = lines[-1] if lines else reason
            self.first_ready.set_exception(
                LoadError(f"{self._config.name}: the engine could not be loaded ({ended}): {line}")
            )
        else:
            self._restarts += 1
            log.info("%s: it starts again in %.1f s", self._config.name, wait)

    def _refuse_overdue(self, now: float) -> None:
        if self._down_since is not None:
            retry_after_s = max(1.0, self._retry_at + self._load_s - now)
            self._jobs.refuse_overdue(now, self._down_since, self._rules.patience, retry_after_s)

    def _stop(self, link: ChildLink) -> None:
        self._link = None
        link.send(Shutdown(grace_s=self._rules.grace))
        link.end(self._rules.grace + 1)

    def _end(self) -> None:
        with self._lock:
            self._state = _State.ENDED
        link = self._link
        if link is not None:
            self._jobs.cancel_all(link)
        self._jobs.refuse(NotReady("The server is shutting down.", retry_after_s=5))
        if link is not None:
            self._stop(link)
        if not self.first_ready.done():
            self.first_ready.set_exception(LoadError(f"{self._config.name}: the engine was stopped while it loaded."))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _set(self, state: _State) -> None:
        with self._lock:
            self._state = state
