"""The program of an engine's process: the server's messages in, audio out, an adapter in between.

Run by path, as ``python -I child.py FD``, in the environment of the engine: it needs Python 3.10, numpy and msgspec,
and nothing of the server's. FD is a socket that the server has opened. An adapter is a file with a class ``Adapter``,
whose methods ``Adapter`` below describes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, Protocol

import msgspec
import numpy as np

#: Version of the protocol; both ends refuse another one.
PROTOCOL = 1
#: Encoded voices that are kept; the least recently used leave first, and the server sends them again.
MAX_VOICES = 64
#: Seconds between two signs of life of a job that waits for credit.
_BEAT_S = 1.0
#: What libraries say in other errors when there is no memory: PyTorch on a CPU, cuBLAS and cuDNN, CUDA, ONNX Runtime.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate",
    "ALLOC_FAILED",
    "CUDA error: out of memory",
    "Failed to allocate memory for requested buffer",
)
#: Of <linux/prctl.h>: the signal that this process gets when its parent dies.
_PR_SET_PDEATHSIG = 1


class Refused(Exception):
    """What an adapter raises: bad_option, voice_missing, voice_rejected, too_long or failed, and a line for the log.

    That of bad_option begins with the name of the option, or ``voice``, and a colon: the client is told the name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def checked(options: list[dict[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for every option, in their order; raises Refused naming what is wrong in ``given``.

    options  as in ``ready``, of the types number and integer, with ``min`` and ``max``
    """
    names = [option["name"] for option in options]
    if unknown := sorted(given.keys() - set(names)):
        raise Refused("bad_option", f"{unknown[0]}: there is no such option; there are {', '.join(names)}")
    values = {}
    for option in options:
        name, whole = option["name"], option["type"] == "integer"
        value = given.get(name)
        if value is None:
            values[name] = option["default"]
            continue
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not math.isfinite(value) or not option["min"] <= value <= option["max"]:
            kind = "an integer" if whole else "a number"
            raise Refused("bad_option", f"{name}: must be {kind} from {option['min']} to {option['max']}")
        values[name] = value if whole else float(value)  # some libraries take no whole number for one with a point
    return values


class Cancelled(BaseException):
    """Nobody listens any more. Not an Exception, so that no adapter catches it by accident."""


class Adapter(Protocol):
    """What the file of an adapter defines, as a class ``Adapter``. ``load`` comes first; each may block.

    ``load`` takes the engine's table (name, model, device, dtype, threads, memory_gb, options) and returns the fields
    of the message ``ready``: at least ``name`` and ``sample_rate``; further ``version``, ``device``, ``license``,
    ``capabilities``, ``limits``, ``options``, ``voices``. Jobs run on as many threads as ``limits.concurrent`` says.

    ``voice`` turns a clip (float32 mono, ``rate`` Hz) into what ``speak`` finds in ``job.voice``.

    ``speak`` yields float32 arrays at the sample rate. Between two of them the job may be cancelled, or wait because
    its listener is slow; ``job.step()`` in longer work allows the former, and shows that it gets on.
    """

    def load(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Load the engine."""
        ...

    def voice(self, pcm: np.ndarray, rate: int) -> Any:
        """Encode a clip."""
        ...

    def speak(self, job: Job) -> Iterator[np.ndarray]:
        """Speak a text."""
        ...


class Job:
    """One text to speak; ``voice`` is what the adapter has made of the clip, None without one.

    ``emotion`` is the same of a second clip, whose emotion the speech is to have.

    An adapter may set ``last`` before it yields its last array, ``truncated`` where speech is cut off, and ``tokens``.
    """

    def __init__(self, child: Child, message: dict[str, Any]) -> None:
        self.id: int = message["id"]
        self.text: str = message["text"]
        self.seed: int = message["seed"]
        self.name: str | None = message.get("name")
        self.key: str | None = message.get("key")
        self.emotion_key: str | None = message.get("emotion_key")
        self.options: dict[str, Any] = message.get("options") or {}
        self.voice: Any = None
        self.emotion: Any = None
        self.last = self.truncated = False
        self.tokens = 0
        self._child = child
        self._credit: int = message["credit"]
        self._cancelled = False
        self._changed = threading.Condition()

    def step(self) -> None:
        """Count a step of work; raises Cancelled when nobody listens any more."""
        self._child.steps += 1
        if self._cancelled:
            raise Cancelled

    def wait_for_credit(self) -> None:
        """Wait until the job may send again."""
        with self._changed:
            while self._credit <= 0 and not self._cancelled:
                self._child.steps += 1  # it is well, and would go on
                self._changed.wait(_BEAT_S)

    def spend(self, samples: int) -> None:
        """Samples have been sent."""
        with self._changed:
            self._credit -= samples

    def grant(self, samples: int) -> None:
        """Let the job send more."""
        with self._changed:
            self._credit += samples
            self._changed.notify()

    def cancel(self) -> None:
        """End the job at its next step."""
        with self._changed:
            self._cancelled = True
            self._changed.notify()


class Voices:
    """The clips that the server has sent, encoded once each when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def put(self, key: str, pcm: bytes, rate: int) -> None:
        """Keep a clip."""
        with self._lock:
            self._entries[key] = _Entry(pcm, rate)
            while len(self._entries) > MAX_VOICES:
                self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        """Drop a voice."""
        with self._lock:
            self._entries.pop(key, None)

    def get(self, key: str, adapter: Adapter) -> Any:
        """Return an encoded voice; raises Refused."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                raise Refused("voice_unknown", key)
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.pcm is not None:
                entry.value = adapter.voice(np.frombuffer(entry.pcm, np.float32), entry.rate)
                entry.pcm = None
        return entry.value


class _Entry:
    def __init__(self, pcm: bytes, rate: int) -> None:
        self.pcm: bytes | None = pcm
        self.rate = rate
        self.value: Any = None
        self.lock = threading.Lock()


class Child:
    """The main thread reads and answers, so that a ping or a cancel never waits for the model; others run it."""

    def __init__(self, descriptor: int) -> None:
        self.steps = 0
        self._connection = Connection(descriptor)
        self._sending = threading.Lock()
        self._adapter: Adapter | None = None
        self._voices = Voices()
        self._jobs: dict[int, Job] = {}
        self._busy: list[int] = []
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._out_of_memory = False

    def serve(self) -> None:
        """Answer the server until it has gone or says that this is the end."""
        while True:
            message = msgspec.msgpack.decode(self._connection.recv_bytes())
            kind = message.get("t")
            job = self._jobs.get(message.get("id"))
            if kind == "hello":
                self._hello(message)
            elif kind == "voice":
                self._voices.put(message["key"], message["pcm"], message["rate"])
                self._tasks.put((self._encode, message["id"], message["key"]))
            elif kind == "forget":
                self._voices.forget(message["key"])
            elif kind == "speak":
                job = self._jobs[message["id"]] = Job(self, message)
                self._tasks.put((self._speak, job))
            elif kind == "credit":
                if job is not None:  # else it has ended meanwhile
                    job.grant(message["samples"])
            elif kind == "cancel":
                if job is not None:
                    job.cancel()
            elif kind == "ping":
                busy = self._busy[0] if self._busy else None
                self.send("pong", n=message["n"], steps=self.steps, busy_id=busy, memory=_memory())
            elif kind == "shutdown":
                self._shut_down(message["grace_s"])
                return
            else:
                self.send("error", id=None, code="failed", message=f"unknown message {kind!r}", fatal=True)
                return

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message to the server."""
        data = msgspec.msgpack.encode({"t": kind, **fields})
        with self._sending:
            self._connection.send_bytes(data)

    def _hello(self, message: dict[str, Any]) -> None:
        if message["protocol"] != PROTOCOL:
            text = f"the server speaks protocol {message['protocol']}, this is {PROTOCOL}"
            self.send("error", id=None, code="failed", message=text, fatal=True)
            os._exit(1)
        self._start_worker()
        self._tasks.put((self._load, message["engine"]))

    def _start_worker(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            task, *arguments = self._tasks.get()
            try:
                task(*arguments)
            except OSError:  # the server has gone
                traceback.print_exc()
                os._exit(0)

    def _load(self, settings: dict[str, Any]) -> None:
        try:
            self.send("loading", stage="adapter")
            _limit_memory(settings)
            self._adapter = _adapter(settings["adapter"])
            self.send("loading", stage="model")
            info = self._adapter.load(settings)
            for _ in range(info.get("limits", {}).get("concurrent", 1) - 1):
                self._start_worker()
            self.send("ready", protocol=PROTOCOL, **info)
        except BaseException as error:  # whatever a library raises: the server must hear of it
            self._load_failed(error)

    def _load_failed(self, error: BaseException) -> None:
        traceback.print_exc()
        sys.stderr.flush()
        self.send("error", id=None, code="failed", message=f"{type(error).__name__}: {error}", fatal=True)
        os._exit(1)

    def _encode(self, number: int, key: str) -> None:
        assert self._adapter is not None
        try:
            voice = self._voices.get(key, self._adapter)
        except Exception as error:
            # Whoever speaks with it is told the same, with the number of the job.
            self.send(
                "error", id=number, code="voice_rejected", message=f"{type(error).__name__}: {error}", fatal=False
            )
        else:
            self.send("voiced", id=number, key=key, nbytes=int(getattr(voice, "nbytes", 0)))

    def _speak(self, job: Job) -> None:
        self._busy.append(job.id)
        kind, fields = "error", {}
        try:
            kind, fields = "done", self._run(job)
            self._out_of_memory = False
        except Cancelled:
            kind, fields = "done", {"cancelled": True}
        except Refused as refused:
            kind, fields = "error", {"code": refused.code, "message": str(refused), "fatal": False}
        except ConnectionError:
            raise  # the server has gone
        except BaseException as error:  # whatever a library raises, an exit too, ends only this job
            traceback.print_exc()
            kind, fields = "error", self._failure(error)
        # Forgotten first: the server may send the job again as soon as it hears of the end of this one.
        self._jobs.pop(job.id, None)
        self.send(kind, id=job.id, **fields)
        self._busy.remove(job.id)

    def _run(self, job: Job) -> dict[str, Any]:
        """Speak, and return the fields of ``done``."""
        assert self._adapter is not None
        began = time.monotonic()
        first_s, samples, number = 0.0, 0, 0
        job.step()
        if job.key is not None:
            job.voice = self._voices.get(job.key, self._adapter)
        if job.emotion_key is not None:
            job.emotion = self._voices.get(job.emotion_key, self._adapter)
        items = iter(self._adapter.speak(job))
        try:
            while True:
                job.wait_for_credit()
                job.step()
                item = next(items, None)
                if item is None:
                    break
                job.step()
                pcm = np.ascontiguousarray(item, dtype="<f4").reshape(-1)
                if not len(pcm):
                    continue
                if not number:
                    first_s = time.monotonic() - began
                job.spend(len(pcm))
                self.send("audio", id=job.id, seq=number, pcm=pcm.data.cast("B"), last=job.last)
                number, samples = number + 1, samples + len(pcm)
        finally:
            if hasattr(items, "close"):
                items.close()
        total_ms = 1000 * (time.monotonic() - began)
        stats = {"first_ms": 1000 * first_s, "total_ms": total_ms, "samples": samples, "tokens": job.tokens}
        return {"cancelled": False, "truncated": job.truncated, "stats": stats}

    def _failure(self, error: BaseException) -> dict[str, Any]:
        exhausted = (
            isinstance(error, MemoryError)
            or type(error).__name__ == "OutOfMemoryError"
            or any(said in str(error) for said in _OUT_OF_MEMORY)
        )
        fatal = exhausted and self._out_of_memory  # twice in a row: what is left will not do
        self._out_of_memory = exhausted
        if exhausted and "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            sys.modules["torch"].cuda.empty_cache()
        code = "out_of_memory" if exhausted else "failed"
        return {"code": code, "message": f"{type(error).__name__}: {error}", "fatal": fatal}

    def _shut_down(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        while (self._jobs or self._busy) and time.monotonic() < deadline:
            time.sleep(0.01)


def _adapter(path: str) -> Adapter:
    # The adapter imports this module by its name, and must not get a second one.
    sys.modules["child"] = sys.modules[__name__]
    for folder in (os.path.dirname(os.path.abspath(__file__)), os.path.dirname(path)):
        if folder not in sys.path:
            sys.path.append(folder)  # last: an adapter may have the name of the package that it calls
    spec = importlib.util.spec_from_file_location("adapter", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["adapter"] = module
    spec.loader.exec_module(module)
    adapter: Adapter = module.Adapter()
    return adapter


def _limit_memory(settings: dict[str, Any]) -> None:
    """Hold torch to the memory that the engine claims of its GPU."""
    claim, device = settings.get("memory_gb", 0), settings.get("device", "cpu")
    if claim and device.startswith("cuda"):
        torch = __import__("torch")
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, claim * 2**30 / total), device)


def _memory() -> int:
    """Return the memory of this process in bytes; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    """Serve the socket whose number is the last argument."""
    os.dup2(2, 1)  # what libraries print belongs into the log, line by line
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # they are text files
    # The server ends this process; a signal to its whole group must not come before that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        Child(int(sys.argv[-1])).serve()
    except EOFError:
        pass  # the server has gone
    except OSError:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)  # whatever the other threads are doing


if __name__ == "__main__":
    main()
