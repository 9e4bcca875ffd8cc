"""The real server as a process of its own. ``python -m bench.server`` serves an engine that only benchmarks know."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench import ROOT
from bench.engines import known_to_the_server, open_engine
from echo.errors import NotReady
from echo.settings import Settings, env_name, load_settings

#: Real weights take minutes from a cold disk.
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """Where a server listens and which process it is."""

    url: str
    pid: int


@asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[ServerProcess]:
    """Run ``python api_server.py`` with these settings on a free port; yields once it is warm.

    Raises NotReady with the end of its log when it exits before.
    """
    port = free_port()
    command = ["api_server.py"] if known_to_the_server(settings.model_repo) else ["-m", "bench.server"]
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env={**os.environ, **as_environment(settings), "HOST": "127.0.0.1", "PORT": str(port)},
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await _until_ready(url, process)
            yield ServerProcess(url, process.pid)
        except ConnectionError:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise NotReady("The server has not started:\n" + "\n".join(lines[-5:])) from None
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings that differ from their defaults, as environment variables."""
    found: dict[str, str] = {}
    for field, info in Settings.model_fields.items():
        value = getattr(settings, field)
        if value != info.get_default():
            parts = value if isinstance(value, tuple) else (value,)
            found[env_name(field)] = ",".join(str(int(part) if isinstance(part, bool) else part) for part in parts)
    return found


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads; needs /proc."""
    # The command's name, in brackets, may hold spaces; the counters are fields 14 and 15 of the line.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _until_ready(url: str, process: asyncio.subprocess.Process) -> None:
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(_START_TIMEOUT_S):
        while True:
            if process.returncode is not None:
                raise ConnectionError
            try:
                if (await client.get("/ready")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


def main() -> None:
    """Serve, as ``api_server.py`` does, an engine that it does not know; settings from the environment."""
    import uvicorn

    from api_server import create_app
    from echo.runtime import Runtime
    from server.serve import configure

    settings = load_settings()
    runtime = Runtime(settings, load_engine=open_engine)
    app = create_app(settings, runtime)
    uvicorn.Server(configure(app, settings, runtime.metrics)).run()


if __name__ == "__main__":
    main()
