"""Voices by upload: OpenAI's SDK, and forms as vLLM-Omni's clients send them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.contract.cloning import HOSTILE_NAMES, MAX_SAMPLE_BYTES, changed, clip, snapshot
from tests.contract.omni.calls import open_socket
from tests.contract.serving import PATIENCE_S, Serve, Served

PATH = "/v1/audio/voices"


@pytest.fixture
def client(cloning: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloning.url, timeout=PATIENCE_S, verify=False) as opened:
        yield opened


@pytest.fixture
def sdk(cloning: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cloning.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def upload(client: httpx.Client, data: bytes | None = None, **fields: str) -> httpx.Response:
    form = {"name": "Ada", "consent": "cons_1", **fields}
    sample = ("any.wav", clip() if data is None else data, "audio/wav")
    return client.post(PATH, data=form, files={"audio_sample": sample})


def error(answer: httpx.Response) -> tuple[int, str | None]:
    found = answer.json()["error"]
    assert sorted(found) == ["code", "message", "param", "type"]
    return answer.status_code, found["param"]


def voice_size(server: Served, voice: Any) -> int:
    """Speak with a voice and return how large the engine found it."""
    body = {"input": "Hello there.", "voice": voice, "response_format": "pcm"}
    answer = httpx.post(server.url + "/v1/audio/speech", json=body, timeout=PATIENCE_S, verify=False)
    assert answer.status_code == 200, answer.text
    state = server.script.spoken[-1].voice
    assert state is not None
    return state.nbytes


def test_openais_sdk_makes_a_voice_speaks_with_it_and_deletes_it(cloning: Served, sdk: OpenAI) -> None:
    voice = sdk.audio.voices.create(name="Ada", consent="cons_1234", audio_sample=("ada.wav", clip(seconds=3.0)))
    assert (voice.object, voice.type, voice.name) == ("audio.voice", "audio_sample", "Ada")
    assert voice.created_at > 1_700_000_000
    for name in ({"id": voice.id}, voice.id):
        speech = sdk.audio.speech.create(model="tts-1", voice=name, input="Hello.", response_format="pcm")  # type: ignore[arg-type]
        assert len(speech.content) > 10_000
        assert cloning.script.spoken[-1].voice is not None
        assert cloning.script.spoken[-1].voice.nbytes == 3 * 441
    deleted = sdk.audio.voices.delete(voice.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (voice.id, True, "audio.voice.deleted")
    with pytest.raises(openai.NotFoundError):
        sdk.audio.voices.delete(voice.id)


def test_openais_sdk_is_told_that_descriptions_make_no_voices(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        sdk.audio.voices.create(name="Ada", prompt="A warm voice.", type="prompt")


@pytest.mark.parametrize("kind", ["WAV", "MP3"])
def test_a_voice_goes_by_the_name_it_was_uploaded_under(cloning: Served, client: httpx.Client, kind: str) -> None:
    answer = upload(client, clip(kind, seconds=3.0), ref_text="What it says.", speaker_description="warm narrator")
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    told = answer.json()["voice"]
    listed = client.get(PATH).json()
    assert listed["uploaded_voices"] == [told]
    assert told["id"] == "default__Ada"
    assert (told["name"], told["consent"], told["mime_type"]) == ("Ada", "cons_1", "audio/wav")
    assert (told["ref_text"], told["speaker_description"]) == ("What it says.", "warm narrator")
    assert told["file_size"] > 100_000
    assert {"id": "default__Ada", "name": "Ada", "value": "default__Ada", "label": "Ada"} in listed["voices"]
    assert voice_size(cloning, "Ada") == voice_size(cloning, "ada") == voice_size(cloning, "default__Ada") > 1000
    with open_socket(cloning) as socket:
        socket.config(voice="Ada")
        assert socket.say("Hello.").texts == ["Hello."]
    assert client.delete(f"{PATH}/Ada").json()["success"] is True
    assert client.get(PATH).json()["uploaded_voices"] == []


def test_what_was_not_told_is_not_listed(client: httpx.Client) -> None:
    assert "ref_text" not in upload(client).json()["voice"]
    assert "speaker_description" not in client.get(f"{PATH}?legacy=true").json()["uploaded_voices"][0]


def test_a_voice_of_the_same_name_is_replaced_and_no_other(cloning: Served, client: httpx.Client, home: Path) -> None:
    upload(client)
    before, first, anna = snapshot(home), voice_size(cloning, "Ada"), voice_size(cloning, "anna")
    assert upload(client, clip(seconds=3.0)).status_code == 200
    assert upload(client, clip(seconds=3.0), name="anna").json()["id"] == "default__anna"
    assert upload(client, clip(seconds=3.0), name="nova").status_code == 200
    made = changed(before, snapshot(home))
    assert all(
        path.startswith(("voices/default__A", "voices/default__anna.", "voices/default__nova.")) for path in made
    )
    assert voice_size(cloning, "Ada") > first
    assert voice_size(cloning, "anna") == voice_size(cloning, "nova") == anna  # nova is OpenAI's: the default voice
    assert voice_size(cloning, "default__nova") > anna


def test_only_clones_can_be_deleted(client: httpx.Client, home: Path) -> None:
    before = snapshot(home)
    assert error(client.delete(f"{PATH}/anna")) == (403, "voice")
    assert error(client.delete(f"{PATH}/nobody")) == (404, "voice")
    assert error(client.delete(f"{PATH}/none")) == (404, "voice")
    assert changed(before, snapshot(home)) == set()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_leads_out_of_the_folder(client: httpx.Client, home: Path, name: str) -> None:
    name = name.format(home=home)
    before = snapshot(home)
    assert upload(client, name=name).status_code in (200, 400)
    made = changed(before, snapshot(home))
    assert all(path.startswith("voices/default__") for path in made)
    before = snapshot(home)
    try:
        answer = client.delete(f"{PATH}/{name}")
    except (httpx.InvalidURL, UnicodeError):
        return
    assert answer.status_code in (200, 400, 403, 404, 405)
    assert all(path.startswith("voices/default__") for path in changed(before, snapshot(home)))


def test_cloning_is_off_unless_switched_on(server: Served) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, verify=False) as client:
        assert error(upload(client)) == (403, None)
        assert error(client.delete(f"{PATH}/anna")) == (403, None)
        assert client.get(PATH).json()["uploaded_voices"] == []


def test_the_routes_can_be_switched_off(serve: Serve) -> None:
    with httpx.Client(base_url=serve(omni_compat=False).url, timeout=PATIENCE_S, verify=False) as client:
        assert upload(client).status_code == 405
        assert client.get(PATH).status_code == 200


@pytest.mark.parametrize("field", ["name", "consent"])
@pytest.mark.parametrize("value", ["", "   "])
def test_a_missing_field_is_named(client: httpx.Client, field: str, value: str) -> None:
    assert error(upload(client, **{field: value})) == (400, field)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "!?"}, "name"),
        ({"name": "x" * 200}, "name"),
        ({"consent": "x" * 300}, "consent"),
        ({"ref_text": "x" * 3000}, "ref_text"),
        ({"speaker_description": "x" * 3000}, "speaker_description"),
        ({"type": "prompt"}, "type"),
    ],
)
def test_a_wrong_field_is_named(client: httpx.Client, home: Path, fields: dict[str, str], param: str) -> None:
    before = snapshot(home)
    answer = upload(client, **fields)
    assert error(answer) == (400, param)
    assert param in answer.json()["error"]["message"]
    assert changed(before, snapshot(home)) == set()


@pytest.mark.parametrize("data", [b"", b"nonsense" * 500, clip("FLAC"), clip(level=0.0)], ids=["", "text", "flac", "0"])
def test_a_recording_of_no_use_is_refused(client: httpx.Client, home: Path, data: bytes) -> None:
    before = snapshot(home)
    assert error(upload(client, data)) == (400, "audio_sample")
    assert changed(before, snapshot(home)) == set()


def test_what_is_no_upload_is_refused(client: httpx.Client) -> None:
    for sent in (
        {"data": {"name": "x", "consent": "y"}},
        {"data": {"name": "x", "consent": "y", "audio_sample": "text"}},
        {"json": {"name": "x"}},
        {"content": b"--broken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ):
        assert client.post(PATH, **sent).status_code == 400, sent  # type: ignore[arg-type]


def test_a_recording_above_the_limit_is_413(client: httpx.Client) -> None:
    for size in (MAX_SAMPLE_BYTES + 1, 10 * 2**20 + 1, 12 * 2**20):
        assert upload(client, clip() + bytes(size - len(clip()))).status_code == 413


def test_a_recording_of_ten_megabytes_and_no_more(serve: Serve, tmp_path: Path) -> None:
    server = serve(voices_dir=(str(tmp_path),), inworld_clone_enabled=True)
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, verify=False) as client:
        one = io.BytesIO(clip(seconds=2.0)).getvalue()
        assert upload(client, one).status_code == 200
        assert error(upload(client, one + bytes(10 * 2**20))) == (413, "audio_sample")


def test_a_quota_is_403(serve: Serve, tmp_path: Path) -> None:
    server = serve(voices_dir=(str(tmp_path),), inworld_clone_enabled=True, max_clones=1)
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, verify=False) as client:
        assert upload(client).status_code == 200
        assert error(upload(client, name="Bea")) == (403, "name")
        assert upload(client).status_code == 200
