"""Two server processes behind nginx, with the configuration of deploy/nginx."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import websockets

from tests.e2e.server_process import ENDLESS, QUICK, Listener, ServerProcess
from tests.processes import PATIENCE_S, ROOT, eventually

CONFIG = ROOT / "deploy" / "nginx" / "nginx.conf"


class Fleet:
    """Two processes and the proxy before them."""

    def __init__(self, url: str, servers: list[ServerProcess]) -> None:
        self.url, self.servers = url, servers


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")
    assert nginx is not None, "Install the Debian package nginx-light: this test needs it."
    with ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            jobs = {"ECHO_JOBS_DIR": tmp_path / "jobs"} if name == "one" else {}
            server = ServerProcess(
                tmp_path / name, ECHO_TRUSTED_PROXIES="127.0.0.1", ECHO_CPU_THREADS=1, **jobs, **QUICK
            )
            servers.append(stack.enter_context(server))
        for server in servers:
            server.wait_ready()
        # Bound, so that nobody else gets the port, and not listening.
        taken = stack.enter_context(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        text = CONFIG.read_text()
        for listed, server in zip(("8001", "8002"), servers, strict=True):
            assert f"server 127.0.0.1:{listed} " in text
            text = text.replace(f"server 127.0.0.1:{listed} ", f"server {server.url.removeprefix('http://')} ")
        text = re.sub(r"listen 8000;", f"listen 127.0.0.1:{port} reuseport;", text)
        head = f"pid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/nginx.log;\ndaemon off;\n"
        paths = "".join(
            f"    {kind}_temp_path {tmp_path}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = head + text.replace("http {\n", f"http {{\n    access_log off;\n{paths}", 1)
        config = tmp_path / "nginx.conf"
        config.write_text(text)
        proxy = subprocess.Popen([nginx, "-c", str(config), "-e", str(tmp_path / "nginx.log")])
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: _answers(url), "nginx answers")
            yield Fleet(url, servers)
        finally:
            proxy.send_signal(signal.SIGQUIT)
            assert proxy.wait(PATIENCE_S) == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url + "/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_streams_hang_ups_sockets_and_the_end_of_a_process(fleet: Fleet) -> None:
    one, two = fleet.servers
    speech = fleet.url + "/v1/audio/speech"

    async def by_socket() -> int:
        url = fleet.url.replace("http", "ws") + "/v1/audio/speech/stream"
        async with websockets.connect(url, open_timeout=PATIENCE_S) as connection:
            await connection.send(
                json.dumps({"type": "session.config", "response_format": "pcm", "stream_audio": True})
            )
            await connection.send(json.dumps({"type": "input.text", "text": "Hello."}))
            await connection.send(json.dumps({"type": "input.done"}))
            count = 0
            async for message in connection:
                if isinstance(message, bytes):
                    count += len(message)
                elif json.loads(message)["type"] == "session.done":
                    break
            return count

    assert asyncio.run(asyncio.wait_for(by_socket(), PATIENCE_S)) > 1000

    # Jobs are one process's own, whichever has fewer streams open.
    jobs = fleet.url + "/v1/audio/jobs"
    for _ in range(3):
        assert httpx.post(jobs, json={"input": "A book."}, timeout=PATIENCE_S).status_code == 202
    assert [len(httpx.get(jobs, timeout=PATIENCE_S).json()["data"]) for _ in range(3)] == [3] * 3

    # Two streams that would go on for minutes: one for each process, block by block, and gone with their listeners.
    with ExitStack() as stack:
        answers = [stack.enter_context(httpx.stream("POST", speech, json=ENDLESS, timeout=PATIENCE_S)) for _ in "12"]
        endless = [Listener(answer) for answer in answers]
        assert all(listener.some() for listener in endless)
        assert [server.open_streams for server in (one, two)] == [1, 1]
    for server in (one, two):
        server.wait_idle()

    # A process ends while it streams: the stream does too, to its end, and nobody else notices.
    finite = {**ENDLESS, "num_steps": [1] * 16, "input": "Hello."}
    with ExitStack() as stack:
        answers = [stack.enter_context(httpx.stream("POST", speech, json=finite, timeout=PATIENCE_S)) for _ in "12"]
        listeners = [Listener(answer) for answer in answers]
        heard = [len(listener.some()) for listener in listeners]
        one.send_signal(signal.SIGTERM)
        with ThreadPoolExecutor(4) as threads:
            others = threads.map(lambda _: httpx.post(speech, json={"input": "Hi."}, timeout=PATIENCE_S), range(8))
            assert [other.status_code for other in others] == [200] * 8
        whole = [count + len(listener.rest()) for count, listener in zip(heard, listeners, strict=True)]
    # Up to the last block, whose silent end is cut off.
    assert whole[0] == whole[1] > 15 * 16 * 2048 * 2
    one.wait()
    assert httpx.post(speech, json={"input": "Still here."}, timeout=PATIENCE_S).status_code == 200
