"""ElevenLabs' own SDK as docs/integrations/elevenlabs.md sets it up."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from elevenlabs import VoiceSettings
from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError
from websockets.exceptions import InvalidStatus

from echo.engines.fake import FakeScript
from echo.session import SpeechSession
from echo.types import Audio, Utterance
from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Serve, Served

PAGE = Page("elevenlabs")
#: The SDK's own affair.
pytestmark = pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(heading: str, server: Served) -> None:
    Path("example.py").write_text(aimed(PAGE.block(heading, "python"), server), encoding="utf-8")
    hang_up(runpy.run_path("example.py")["client"])


def hang_up(client: ElevenLabs) -> None:
    """Close the client's connections, which the SDK leaves to the end of the process."""
    client._client_wrapper.httpx_client.httpx_client.close()


@contextmanager
def opened(server: Served, key: str = "none") -> Iterator[ElevenLabs]:
    client = ElevenLabs(base_url=server.url, api_key=key)
    client.text_to_speech._ws_base_url = server.ws_url
    try:
        yield client
    finally:
        hang_up(client)


@pytest.fixture
def client(checkout: Served) -> Iterator[ElevenLabs]:
    with opened(checkout) as client:
        yield client


def test_a_file(checkout: Served) -> None:
    run("A file", checkout)
    audio = decoded(Path("speech.mp3").read_bytes())
    assert (audio.codec, audio.sample_rate) == ("mp3float", 44_100)
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_audio_while_it_is_made(checkout: Served) -> None:
    run("Audio while it is made", checkout)
    audio = decoded(Path("speech.wav").read_bytes())
    assert (audio.sample_rate, audio.codec) == (24_000, "pcm_s16le")
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_text_while_it_is_written(checkout: Served) -> None:
    run("Text while it is written", checkout)
    spoken = [utterance.text.removeprefix("[S1] ") for utterance in checkout.script.spoken]
    assert spoken[0] == "Good evening."
    assert " ".join(spoken) == "Good evening. Dinner is ready, and the wine is open."
    assert decoded(Path("speech.mp3").read_bytes()).seconds > spoken_seconds(checkout)  # and the pauses


def test_times(checkout: Served, capsys: pytest.CaptureFixture[str]) -> None:
    run("Times of the characters", checkout)
    rows = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert "".join(character for _, character in rows) == "Dinner is ready."
    times = [float(time) for time, _ in rows]
    assert times == sorted(times)
    assert 0 == times[0] < times[-1] < spoken_seconds(checkout)


def test_voices(checkout: Served, client: ElevenLabs, capsys: pytest.CaptureFixture[str]) -> None:
    run("The voices", checkout)
    names = capsys.readouterr().out.split()
    assert "tiny_anna" in names
    found = client.voices
    assert [voice.voice_id for voice in found.get_all().voices] == names
    assert [voice.voice_id for voice in found.search(search="BETH").voices] == ["tiny_beth"]


def test_times_that_are_streamed(checkout: Served, client: ElevenLabs) -> None:
    text = "Good evening. Dinner is ready."
    lines = list(client.text_to_speech.stream_with_timestamps("tiny_anna", text=text))
    assert all(line.audio_base_64 for line in lines)
    assert [line.alignment is not None for line in lines] == [False] * (len(lines) - 1) + [True]
    alignment = lines[-1].alignment
    assert alignment is not None
    assert "".join(alignment.characters) == text
    assert alignment.character_end_times_seconds[:-1] == alignment.character_start_times_seconds[1:]


def test_an_answer_without_an_end_of_a_clause_is_spoken_to_its_end(checkout: Served, client: ElevenLabs) -> None:
    words = [f"word{number}" for number in range(15)]

    def answer() -> Iterator[str]:
        for word in words:
            yield word + " "

    audio = b"".join(client.text_to_speech.convert_realtime("tiny_anna", text=answer(), output_format="pcm_16000"))
    spoken = " ".join(utterance.text.removeprefix("[S1] ") for utterance in checkout.script.spoken)
    assert spoken.lower().split() == words
    assert len(audio) / 32_000 >= spoken_seconds(checkout)


def test_the_speed_and_the_seed_count(checkout: Served, client: ElevenLabs) -> None:
    def seconds(speed: float) -> float:
        audio = client.text_to_speech.convert(
            "tiny_anna",
            text="Dinner is ready.",
            output_format="pcm_16000",
            voice_settings=VoiceSettings(stability=0.5, similarity_boost=0.7, style=0.1, speed=speed),
            seed=7,
            model_id="eleven_multilingual_v2",
            previous_text="Good evening.",
            language_code="en",
        )
        return len(b"".join(audio)) / 32_000

    assert seconds(0.7) == pytest.approx(seconds(1.2) * 1.2 / 0.7, rel=0.1)
    assert {utterance.seed for utterance in checkout.script.spoken} == {7}


def test_errors_are_those_of_the_sdk(checkout: Served, client: ElevenLabs) -> None:
    speech = client.text_to_speech
    with pytest.raises(ApiError) as unknown:
        list(speech.convert("nobody", text="Hello."))
    assert unknown.value.status_code == 404
    assert unknown.value.body["detail"]["status"] == "voice_not_found"
    with pytest.raises(ApiError) as empty:
        list(speech.stream("tiny_anna", text=" "))
    assert (empty.value.status_code, empty.value.body["detail"]["message"]) == (400, "text: must not be empty.")


def test_a_failure_on_the_way_is_an_error_and_no_short_answer(
    checkout: Served, client: ElevenLabs, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_sent, end = threading.Event(), SpeechSession.end

    def ending(session: SpeechSession) -> None:
        end(session)
        all_sent.set()

    def speaking(utterance: Utterance, block: int, count: int) -> Audio:
        # A failure before its last message would be an error of sending to the SDK.
        assert all_sent.wait(PATIENCE_S)
        return np.full(count, 0.25, np.float32)

    monkeypatch.setattr(SpeechSession, "end", ending)
    checkout.engine.script = FakeScript(fail_after_blocks=1, audio_s_per_char=1, render=speaking)
    with pytest.raises(ApiError) as failed:
        list(client.text_to_speech.convert_realtime("tiny_anna", text=iter(["Hello there. "])))
    assert failed.value.body["error"] == "generation_failed"


def test_a_key_is_asked_for_everywhere(serve: Serve) -> None:
    server = serve(api_keys=("right",))
    with opened(server, "right") as client:
        assert list(client.text_to_speech.convert("anna", text="Hello."))
        assert list(client.text_to_speech.convert_realtime("anna", text=iter(["Hello. "])))
    with opened(server, "wrong") as client:
        with pytest.raises(ApiError) as refused:
            list(client.text_to_speech.convert("anna", text="Hello."))
        assert refused.value.status_code == 401
        with pytest.raises(InvalidStatus):
            list(client.text_to_speech.convert_realtime("anna", text=iter(["Hello. "])))
