"""The socket's connection without a server: limits on idle time, and messages in any order and at any moment."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from compat.omni.socket import Connection, Patience
from echo.audio.pcm import from_bytes
from echo.engines.fake import FakeEngine
from echo.runtime import Runtime
from echo.settings import Settings
from echo.types import Audio
from tests.contract import far_end
from tests.contract.omni.calls import Heard, Json, Reader
from tests.contract.serving import PATIENCE_S, Gate
from tests.unit.test_session import WORD, level_of, render

CONFIG = {"type": "session.config", "voice": "anna", "response_format": "pcm", "stream_audio": True}
LONG = Patience(config_s=60, idle_s=60)


class Client(far_end.Client):
    """A client of the socket."""

    def config(self, **fields: object) -> None:
        self.say(**{**CONFIG, **fields})

    @property
    def kinds(self) -> list[str]:
        return [json.loads(answer)["type"] if isinstance(answer, str) else "audio" for answer in self.answers]

    def utterances(self) -> list[Heard]:
        """Return what was heard; sentences and utterances must be complete."""
        reader = Reader()
        return [heard for answer in self.answers if (heard := reader.add(answer)) is not None]

    async def talk(self, runtime: Runtime, patience: Patience = LONG) -> None:
        async def application(socket: WebSocket) -> None:
            await socket.accept()
            await Connection(socket, runtime, patience).serve()

        async with asyncio.timeout(20):
            await self.serve(application)


async def test_a_client_that_configures_nothing_is_let_go(runtime: Runtime) -> None:
    client = Client()
    await client.talk(runtime, Patience(config_s=0.01, idle_s=60))
    assert client.kinds == ["error"]
    assert client.close_code == 1008


@pytest.mark.parametrize("text", ["", "Half a sen"])
async def test_a_client_that_falls_silent_is_let_go(runtime: Runtime, text: str) -> None:
    client = Client()
    before = asyncio.all_tasks()
    client.config()
    client.say(type="input.text", text=text)
    await client.talk(runtime, Patience(config_s=60, idle_s=0.05))
    assert client.kinds == ["session.configured", "error"]
    assert client.close_code == 1000
    assert asyncio.all_tasks() == before


async def test_a_client_that_listens_is_not_idle(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = gate = Gate()
    client = Client()
    client.config()
    client.say(type="input.text", text="Hello there.")
    client.say(type="input.done")
    asyncio.get_running_loop().call_later(0.2, gate.open)
    await client.talk(runtime, Patience(config_s=60, idle_s=0.02))
    assert "session.done" in client.kinds
    assert client.close_code == 1000


async def test_nothing_is_left_behind_when_the_client_leaves(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.render = gate = Gate()
    client = Client()
    before = asyncio.all_tasks()
    client.config()
    client.say(type="input.text", text="Hello there.")
    client.say(type="input.done")
    serving = asyncio.create_task(client.talk(runtime))
    await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
    client.leave()
    await serving
    assert runtime.service.admission.open == 0
    assert asyncio.all_tasks() == before
    gate.open()


async def test_while_the_model_is_loading_the_connection_is_refused(voices_dir: Path, engine: FakeEngine) -> None:
    runtime = Runtime(Settings(voices_dir=(str(voices_dir),)), load_engine=lambda settings, gate: engine)
    client = Client()
    client.config()
    await client.talk(runtime)
    assert json.loads(client.answers[0])["code"] == "model_not_ready"
    assert client.close_code == 1008


# -- any order, any moment -------------------------------------------------------------------------------------------


def words_in(audio: Audio, known: Sequence[str]) -> list[str]:
    """Return the words that 16-bit audio says, if they are among ``known``."""
    levels = {word: level_of(word) for word in known}
    edges = [0, *(np.flatnonzero(np.diff(audio)) + 1), len(audio)]
    said: list[str] = []
    for start, end in itertools.pairwise(edges):
        if end - start > WORD // 2 and audio[start] != 0:  # what is shorter is faded
            name = min(levels, key=lambda word: abs(levels[word] - audio[start]))
            assert abs(levels[name] - audio[start]) < 1e-4
            said += [name] * round((end - start) / WORD)
    return said


def bare(word: str) -> str:
    """A word without what the text package may change of it."""
    return word.strip(".,?!;").lower()


TEXTS = [
    "Well, it has stopped; we can go. ",
    "One. Two, three",
    "No end in sight ",
    "Really?! Dr. Smith paid 3.5 dollars.",
]


@dataclass(slots=True)
class Step:
    """A message, and how often the loop turns before the next."""

    type: str
    fields: Json = field(default_factory=dict)
    turns: int = 0


steps = st.lists(
    st.builds(
        Step,
        st.just("input.text"),
        st.builds(
            lambda text, start, size: {"text": text[start : start + size]},
            st.sampled_from(TEXTS),
            st.integers(0, 20),
            st.integers(1, 40),
        ),
        st.sampled_from([0, 1, 5, 40]),
    )
    | st.builds(
        Step,
        st.sampled_from(["input.done", "input.done", "input.cancel", "session.config", "nonsense"]),
        st.sampled_from([{}, {"split_granularity": "none"}, {"split_granularity": "clause"}]),
        st.sampled_from([0, 1, 5, 40]),
    ),
    max_size=12,
)


async def test_any_messages_in_any_order_give_the_texts_that_were_not_cancelled(
    runtime: Runtime, engine: FakeEngine
) -> None:
    loop = asyncio.get_running_loop()
    engine.script.render = render

    async def play(messages: list[Step]) -> None:
        engine.script.spoken.clear()
        client = Client()
        serving = asyncio.create_task(client.talk(runtime))
        client.config()
        texts, cancelled, writing = [], set(), False
        for step in messages:
            fields = step.fields
            match step.type:
                case "input.text" if not fields["text"]:
                    pass
                case "input.text" if not writing:
                    texts.append(fields["text"])
                    writing = True
                case "input.text":
                    texts[-1] += fields["text"]
                case "input.done":
                    texts += [] if writing else [""]
                    fields, writing = {}, False
                case "input.cancel":
                    cancelled |= set(range(len(texts)))
                    fields, writing = {}, False
                case "session.config":
                    fields = {**CONFIG, **fields}
            client.say(**{"type": step.type, **fields})
            for _ in range(step.turns):
                await asyncio.sleep(0)
        if writing:
            client.say(type="input.done")
        while client.kinds.count("session.done") < len(texts):  # noqa: ASYNC110 - answers set no event
            await asyncio.sleep(0.001)
        client.leave()
        await serving
        known = [word for one in engine.script.spoken for word in one.text.replace("[S1]", "").split()]
        if len({level_of(word) for word in known}) < len(set(known)):
            return  # two of its words sound the same
        utterances = client.utterances()
        assert [heard.done["utterance_index"] for heard in utterances] == list(range(len(texts)))
        for index, (heard, text) in enumerate(zip(utterances, texts, strict=True)):
            said = [bare(word) for word in words_in(from_bytes(heard.audio), known)] if heard.audio else []
            written = [bare(word) for word in text.split() if bare(word)]
            for sentence in heard.sentences:
                assert sentence.done["total_bytes"] == len(sentence.audio)
                assert not sentence.errors
            if heard.done.get("cancelled"):
                assert index in cancelled
                assert written[: len(said)] == said
            else:
                assert " ".join(heard.texts).split() == text.split() or not written
                assert said == written
        assert runtime.service.admission.open == 0

    @settings(max_examples=60, derandomize=True, deadline=None)
    @given(messages=steps)
    def check(messages: list[Step]) -> None:
        asyncio.run_coroutine_threadsafe(play(messages), loop).result(30)

    await asyncio.to_thread(check)


_FIELDS = ["type", "session", "voice", "response_format", "stream_audio", "split_granularity", "text", "speed", "seed"]
_VALUES: st.SearchStrategy[object] = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2000)
    | st.text(max_size=5)
    | st.sampled_from(["anna", "pcm", "wav", "Hi.", "input.text", "input.done", "session.config", "input.cancel"])
    | st.just({})
)


async def test_no_sequence_of_frames_breaks_the_connection(runtime: Runtime, engine: FakeEngine) -> None:
    engine.script.audio_s_per_char = 0.001
    loop = asyncio.get_running_loop()
    frames = st.dictionaries(
        st.sampled_from(_FIELDS), _VALUES | st.dictionaries(st.sampled_from(_FIELDS), _VALUES), max_size=4
    )

    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(messages=st.lists(frames, max_size=8))
    def play(messages: list[Json]) -> None:
        client = Client()
        for frame in [CONFIG, *messages]:
            client.send(json.dumps(frame))
        client.send("{")
        client.leave()
        asyncio.run_coroutine_threadsafe(client.talk(runtime), loop).result(20)
        errors = [answer for answer in client.answers if isinstance(answer, str) and '"error"' in answer]
        assert any("JSON" in error for error in errors) or client.close_code is not None
        assert not any("internal" in error for error in errors)
        assert client.close_code in (None, 1000)

    await asyncio.to_thread(play)
    assert runtime.service.admission.open == 0
