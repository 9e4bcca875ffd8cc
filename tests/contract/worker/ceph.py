"""A real S3 server for tests: Ceph's object gateway with one monitor and one store in memory, on loopback ports.

The monitor is told not to wait for more changes before it writes one: a start is some ten of them, a second each.

``python -m tests.contract.worker.ceph FOLDER`` starts one by hand and prints how to reach it.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.processes import free_port

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
INSTALL = (
    "an S3 server is needed: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common "
    "(make s3 does it)"
)
#: Longer than any step takes on a slow machine; only a failing start waits for it.
PATIENCE_S = 60.0

ACCESS_KEY, SECRET_KEY = "ACCESSKEYOFTESTS", "secretOfTheTests/withA+Slash"

_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon},v1:127.0.0.1:{old_mon}]
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
admin socket = {folder}/$name.sock
pid file = {folder}/$name.pid
log file = {folder}/$name.log
crash dir = {folder}/crash
ms bind ipv4 = true
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd crush update on start = true
mon allow pool size one = true
mon max pg per osd = 1000
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
paxos propose interval = 0.02
paxos min wait = 0.01
mon data avail crit = 1
mon data avail warn = 1
rgw data = {folder}/rgw
rgw enable usage log = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw thread pool size = 16
rgw override bucket index max shards = 1
ms mon client mode = crc
"""


class Ceph:
    """The three servers, as children of this process; leaving the context ends them."""

    def __init__(self, folder: Path) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise AssertionError(f"{', '.join(missing)} not found; {INSTALL}")
        self._folder = folder
        self._children: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the servers at once: what they hold is in memory and nobody's."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()

    def pause(self) -> None:
        """Let the gateway hang: it takes connections and answers nothing."""
        self._children[-1].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._children[-1].send_signal(signal.SIGCONT)

    def _start(self) -> None:
        folder, fsid = self._folder, str(uuid.uuid4())
        mon, old_mon = free_port(), free_port()
        text = _CONFIG.format(fsid=fsid, mon=mon, old_mon=old_mon, folder=folder)
        (folder / "ceph.conf").write_text(text)
        for name in ("mon", "osd", "rgw", "crash"):
            (folder / name).mkdir()
        addresses = f"[v2:127.0.0.1:{mon},v1:127.0.0.1:{old_mon}]"
        self._run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", addresses, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap")
        self._serve("ceph-mon", "-f", "-i", "a")
        identity = str(uuid.uuid4())
        number = self._run("ceph", "--connect-timeout", str(int(PATIENCE_S)), "osd", "new", identity).strip()
        self._run("ceph-osd", "--mkfs", "-i", number, "--osd-uuid", identity)
        self._serve("ceph-osd", "-f", "-i", number)
        self._serve("radosgw", "-f", "-n", "client.rgw", "--rgw-frontends", f"beast endpoint=127.0.0.1:{self.port}")
        self._wait_for_gateway()
        user = ("--uid", "tests", "--display-name", "tests", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        made = json.loads(self._run("radosgw-admin", "user", "create", *user))
        assert made["keys"]

    def _wait_for_gateway(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            dead = [child.args for child in self._children if child.poll() is not None]
            assert not dead, f"{dead} ended: {self._log()}"
            assert time.monotonic() < deadline, f"no S3 server: {self._log()}"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=PATIENCE_S):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def _log(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self._folder.glob("*.log"))

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            self._with_config(command),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _serve(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as output:
            self._children.append(
                subprocess.Popen(
                    self._with_config(command), cwd=self._folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            )

    def _with_config(self, command: tuple[str, ...]) -> list[str]:
        config = [] if command[0] == "monmaptool" else ["-c", str(self._folder / "ceph.conf")]
        return [command[0], *config, *command[1:]]


def main() -> None:
    """Run a server until it is interrupted."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    with Ceph(folder) as ceph:
        sys.stdout.write(f"S3_ENDPOINT_URL={ceph.url}\nS3_ACCESS_KEY_ID={ACCESS_KEY}\n")
        sys.stdout.write(f"S3_SECRET_ACCESS_KEY={SECRET_KEY}\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
