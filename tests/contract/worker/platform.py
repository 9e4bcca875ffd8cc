"""A stand-in for RunPod: hands jobs to the SDK's real loop, takes pieces and results, and answers callers.

What the worker calls and what callers call are as the platform documents them; nothing waits for anything else.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

#: Longest that a poll is held, in seconds.
_HOLD_S = 1.0


@dataclass
class Run:
    """A job as the platform knows it."""

    id: str
    input: Any
    status: str = "IN_QUEUE"
    output: Any = None
    error: str | None = None
    #: Pieces, and how many of them a caller has had.
    stream: list[Any] = field(default_factory=list)
    told: int = 0
    #: Sizes of the posted pieces in bytes, and what the status was when they came.
    sizes: list[int] = field(default_factory=list)
    statuses: set[str] = field(default_factory=set)

    def view(self) -> dict[str, Any]:
        """What ``/status`` answers."""
        facts = {"id": self.id, "status": self.status, "output": self.output, "error": self.error}
        return {name: value for name, value in facts.items() if value is not None}


class Platform:
    """The stand-in, on a loopback port."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self._changed = threading.Condition()
        self._queue: list[Run] = []
        self._stops: list[str] = []
        #: The most jobs that the worker has had at a time.
        self.most_at_a_time = 0
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                platform.answer(self)

            def do_POST(self) -> None:
                platform.answer(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the platform tells a worker where it is."""
        return {
            "RUNPOD_POD_ID": "pod1",
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?x=1",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$RUNPOD_POD_ID/$ID?x=1",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.url}/job-stream/$RUNPOD_POD_ID/$ID?x=1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def submit(self, **job: Any) -> Run:
        """Queue a job, as ``/run`` does."""
        run = Run(str(uuid.uuid4()), job)
        with self._changed:
            self.runs[run.id] = run
            self._queue.append(run)
            self._changed.notify_all()
        return run

    def wait(self, run: Run, patience_s: float = 120.0) -> Run:
        """Wait for a job to end."""
        with self._changed:
            assert self._changed.wait_for(lambda: run.status not in ("IN_QUEUE", "IN_PROGRESS"), patience_s), run
        return run

    def wait_for_pieces(self, run: Run, count: int, patience_s: float = 120.0) -> None:
        """Wait for a job's first pieces."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(run.stream) >= count, patience_s), run

    def cancel(self, run: Run) -> None:
        """Stop a job, as ``/cancel`` does."""
        with self._changed:
            run.status = "CANCELLED"
            self._stops.append(run.id)
            self._changed.notify_all()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request of the worker or of a caller."""
        parts = urlsplit(request.path)
        words = parts.path.strip("/").split("/")
        length = int(request.headers.get("Content-Length") or 0)
        body = json.loads(request.rfile.read(length)) if length else None
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match words:
            case ["job-take", _]:
                taken = self._take(1)
                reply: Any = taken[0] if taken else None
            case ["job-take-batch", _]:
                reply = self._take(int(query["batch_size"])) or None
            case ["job-stop", _]:
                reply = self._stopped()
            case ["job-stream", _, job]:
                reply = self._piece(self.runs[job], body, length)
            case ["job-done", _, job]:
                reply = self._done(self.runs[job], body)
            case ["v2", _, "run"]:
                run = self.submit(**body["input"])
                reply = {"id": run.id, "status": run.status}
            case ["v2", _, "runsync"]:
                reply = self.wait(self.submit(**body["input"])).view()
            case ["v2", _, "status", job]:
                reply = self.runs[job].view()
            case ["v2", _, "stream", job]:
                reply = self._tell(self.runs[job])
            case ["v2", _, "cancel", job]:
                self.cancel(self.runs[job])
                reply = self.runs[job].view()
            case _:
                raise AssertionError(f"nobody calls {request.path}")
        with contextlib.suppress(ConnectionError):  # whoever asked may have ended meanwhile
            _send(request, reply)

    def _take(self, count: int) -> list[dict[str, Any]]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue), _HOLD_S)
            taken, self._queue = self._queue[:count], self._queue[count:]
            for run in taken:
                run.status = "IN_PROGRESS"
            busy = sum(run.status == "IN_PROGRESS" for run in self.runs.values())
            self.most_at_a_time = max(self.most_at_a_time, busy)
            return [{"id": run.id, "input": run.input} for run in taken]

    def _stopped(self) -> dict[str, Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._stops), _HOLD_S)
            stops, self._stops = self._stops, []
        return {"jobsToStop": stops} if stops else None

    def _piece(self, run: Run, body: Any, size: int) -> dict[str, Any]:
        with self._changed:
            run.stream.append(body["output"])
            run.sizes.append(size)
            run.statuses.add(run.status)
            self._changed.notify_all()
        return {}

    def _done(self, run: Run, body: Any) -> dict[str, Any]:
        with self._changed:
            run.output, run.error = body.get("output"), body.get("error")
            run.status = "FAILED" if run.error else "COMPLETED"
            self._changed.notify_all()
        return {}

    def _tell(self, run: Run) -> dict[str, Any]:
        """New pieces; ``/stream`` waits a moment for some."""
        deadline = time.monotonic() + _HOLD_S
        with self._changed:
            self._changed.wait_for(
                lambda: len(run.stream) > run.told or run.status not in ("IN_QUEUE", "IN_PROGRESS"),
                max(0.0, deadline - time.monotonic()),
            )
            new, run.told = run.stream[run.told :], len(run.stream)
            return {"status": run.status, "stream": [{"output": piece} for piece in new]}


def _send(request: BaseHTTPRequestHandler, reply: Any) -> None:
    data = json.dumps(reply).encode() if reply is not None else b""
    request.send_response(200 if reply is not None else 204)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
