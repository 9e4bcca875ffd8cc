"""A server process to attack, and what has to be true of it afterwards, whatever was done to it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.attack.raw import speech
from tests.e2e.server_process import QUICK, ServerProcess
from tests.processes import copy_bundled_voices, eventually

#: How long each attack goes on, in seconds: short in a normal run, a minute with ``make attack``.
SECONDS = float(os.environ.get("ATTACK_SECONDS", "2"))
#: What a client may hold is told by settings; these make the tests short. What is spoken does not matter to them,
#: and on a busy machine fifty long texts are more than the half minute that requests may wait by default.
PATIENCE = {**QUICK, "ECHO_RECEIVE_TIMEOUT_S": 2, "ECHO_SEND_TIMEOUT_S": 2, "ECHO_MAX_QUEUE_WAIT_S": 600}
#: Descriptors and memory that a server may have more afterwards: pools grow, allocators keep.
SPARE_DESCRIPTORS = 16
SPARE_BYTES = 400 * 2**20
#: Seconds for which the loop's thread may compute without a turn. The promise is 0.1 s; what was found were seconds,
#: and a busy machine makes everything slower.
BUSY_S = "1.0"


@dataclass(frozen=True, slots=True)
class State:
    """What the server says of itself."""

    values: dict[str, float]

    @classmethod
    def of(cls, server: ServerProcess) -> State:
        text = server.get("/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        values: dict[str, float] = {}
        for sample in samples:
            bound = sample.labels.get("le", "")
            values[sample.name + bound] = values.get(sample.name + bound, 0.0) + sample.value
        return cls(values)

    def __getitem__(self, name: str) -> float:
        return self.values.get(name, 0.0)

    @property
    def held(self) -> dict[str, float]:
        """What must be nothing once nobody wants anything; the connection that asks is one."""
        names = ("echo_open_streams", "echo_active_utterances", "echo_waiting_utterances", "echo_unsent_bytes")
        connections = {"connections": max(0.0, self["echo_connections"] - 1)}
        return {name: self[name] for name in (*names, "echo_incoming_bytes")} | connections

    @property
    def blocked(self) -> float:
        """How often the loop's thread has computed for longer than it may."""
        name = "echo_event_loop_busy_seconds"
        return self[name + "_count"] - self[name + "_bucket" + BUSY_S]


class Target:
    """A server under attack."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.port = httpx.URL(process.url).port or 0
        self._before = State.of(process)
        self._said = len(process.log)

    @property
    def alive(self) -> bool:
        return self.process.get("/health").status_code == 200

    def assert_unharmed(self) -> None:
        """Wait until everything has been given back, and check that nobody has noticed."""
        assert self.alive
        eventually(lambda: not any(State.of(self.process).held.values()), "nothing is held any more")
        eventually(
            lambda: State.of(self.process)["process_open_fds"] <= self._before["process_open_fds"] + SPARE_DESCRIPTORS,
            "descriptors are given back",
        )
        after = State.of(self.process)
        memory = "process_resident_memory_bytes"
        assert after[memory] <= self._before[memory] + SPARE_BYTES
        assert after.blocked == self._before.blocked
        assert self.process.speak("All is well.").status_code == 200
        assert "Traceback" not in (said := self.process.log[self._said :]), said[said.find("Traceback") :][:20_000]


@pytest.fixture(scope="session")
def voices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voices folder of the server under attack; tests may do to it what people do to folders."""
    return copy_bundled_voices(tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="session")
def process(voices_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {**PATIENCE, "ECHO_VOICES_DIR": voices_dir, "ECHO_INWORLD_CLONE_ENABLED": 1}
    with ServerProcess(tmp_path_factory.mktemp("server"), **settings) as started:
        started.wait_ready()
        for form in ("pcm", "mp3", "wav", "flac", "opus", "aac"):  # libraries load, pools fill
            assert started.speak("Good morning.", response_format=form).status_code == 200
        yield started


@pytest.fixture
def target(process: ServerProcess) -> Iterator[Target]:
    """The server; whatever the test does, the server is as before afterwards."""
    under_attack = Target(process)
    yield under_attack
    under_attack.assert_unharmed()


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Chance that repeats itself: the same attack for the same test."""
    return random.Random(request.node.nodeid)


#: A request whose answer is longer than what the system's buffers hold, and cheap to make.
LONG = speech(
    input="This sentence is one of very many that nobody is going to hear to the end. " * 50,
    response_format="pcm",
    sample_rate=48000,
    num_steps=1,
    block_sizes=[64],
    early_stop_on_zero=False,
)
