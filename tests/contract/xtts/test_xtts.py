"""The XTTS routes."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from tests.contract.cloning import MAX_SAMPLE_BYTES, changed, clip, snapshot
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served

LONG = "This is a sentence of some length. " * 6


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, verify=False) as opened:
        yield opened


@pytest.fixture
def uploader(cloning: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloning.url, verify=False) as opened:
        yield opened


def upload(client: httpx.Client, name: str = "Lydia", data: bytes | None = None) -> httpx.Response:
    return client.post(
        "/create_and_store_latents",
        data={"speaker_name": name, "language": "en"},
        files={"wav_file": ("any.wav", clip() if data is None else data, "audio/wav")},
    )


@pytest.mark.parametrize("path", ["/tts_to_audio/", "/tts_to_audio"])
def test_a_whole_file_is_16_bit_wav_with_true_sizes(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"text": "Hello there.", "speaker_wav": "anna", "language": "en"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    assert int(answer.headers["content-length"]) == len(answer.content)
    tag, channels, rate = struct.unpack("<HHI", answer.content[20:28])
    assert (tag, channels, rate) == (1, 1, 44100)
    assert struct.unpack("<I", answer.content[40:44])[0] == len(answer.content) - 44


@pytest.mark.parametrize("path", ["/tts_stream", "/tts_stream/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_stream_is_wav_of_unknown_size(client: httpx.Client, method: str, path: str) -> None:
    fields = {"text": LONG, "speaker_wav": "anna", "language": "en"}
    sent = {"params": fields} if method == "GET" else {"json": fields}
    answer = client.request(method, path, **sent)  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert struct.unpack("<I", answer.content[40:44])[0] == 0xFFFFFFFF
    assert len(answer.content) > 44100


def test_a_stream_starts_while_the_rest_is_being_made(client: httpx.Client, server: Served) -> None:
    server.script.render = gate = Gate(block=1)
    with client.stream("POST", "/tts_stream", json={"text": LONG, "speaker_wav": "anna"}) as answer:
        assert next(answer.iter_bytes()).startswith(b"RIFF")
        gate.open()


@pytest.mark.parametrize("name", ["anna", "ANNA", "anna.wav", "speakers/anna.wav", "D:\\voices\\anna.wav", "oldman"])
def test_a_speaker_may_come_with_a_path(client: httpx.Client, name: str) -> None:
    assert client.post("/tts_to_audio/", json={"text": "Hi", "speaker_wav": name}).status_code == 200


def test_speed_is_applied(client: httpx.Client) -> None:
    lengths = []
    for speed in (1.0, 2.0):
        body = {"text": "Hello there.", "speaker_wav": "anna", "speed": speed}
        lengths.append(len(client.post("/tts_to_audio/", json=body).content))
    assert lengths[1] / lengths[0] == pytest.approx(0.5, rel=0.1)


def test_fields_of_another_model_are_ignored(client: httpx.Client) -> None:
    body = {
        "text": "Hi",
        "speaker_wav": "anna",
        "accent": "en",
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 50,
        "repetition_penalty": 5,
        "override": True,
    }
    assert client.post("/tts_to_audio/", json=body).status_code == 200


def test_a_save_path_is_only_suggested(client: httpx.Client) -> None:
    body = {"text": "Hi", "speaker_wav": "anna", "save_path": "C:\\game\\line 1.wav"}
    answer = client.post("/tts_to_audio/", json=body)
    assert answer.headers["content-disposition"] == 'attachment; filename="line 1.wav"'


@pytest.mark.parametrize("path", ["/tts_to_audio/", "/tts_stream"])
def test_a_keep_alive_gets_100_ms_of_silence_for_nothing(client: httpx.Client, server: Served, path: str) -> None:
    answer = client.post(path, json={"text": "ping", "speaker_wav": "unknown npc"})
    assert answer.status_code == 200
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert len(samples) / rate == pytest.approx(0.1)
    assert not np.any(samples)
    assert server.script.spoken == []


def test_speakers_are_listed_in_both_forms(client: httpx.Client) -> None:
    names = ["anna", "bob", "Old Man"]
    assert client.get("/speakers_list").json() == {"en": {"speakers": names}}
    wanted = [{"name": name, "voice_id": name, "preview_url": ""} for name in names]
    assert client.get("/speakers").json() == wanted


def test_an_official_model_is_offered(client: httpx.Client) -> None:
    assert client.get("/get_models_list").json() == ["v2.0.2"]


@pytest.mark.parametrize("path", ["/set_tts_settings", "/switch_model", "/switch_model/"])
@pytest.mark.parametrize("content", [b"", b"{}", b'{"model_name":"v2.0.1"}', b"[1]", b"nonsense"])
def test_settings_of_another_model_are_accepted(client: httpx.Client, path: str, content: bytes) -> None:
    answer = client.post(path, content=content)
    assert answer.status_code == 200
    assert list(answer.json()) == ["message"]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"speaker_wav": "anna"}, 400, "text"),
        ({"text": "Hi"}, 400, "speaker_wav"),
        ({"text": "", "speaker_wav": "anna"}, 400, "text"),
        ({"text": "x" * 5000, "speaker_wav": "anna"}, 400, "text"),
        ({"text": "Hi", "speaker_wav": ""}, 400, "speaker_wav"),
        ({"text": "Hi", "speaker_wav": "folder/"}, 404, "voice"),
        ({"text": "Hi", "speaker_wav": "nobody"}, 404, "nobody"),
        ({"text": "Hi", "speaker_wav": "anna", "speed": 9}, 400, "speed"),
        (["Hi"], 400, "object"),
    ],
)
@pytest.mark.parametrize("path", ["/tts_to_audio/", "/tts_stream"])
def test_a_wrong_request_is_refused_with_a_detail(
    client: httpx.Client, path: str, body: object, status: int, named: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert named in answer.json()["detail"]


def test_other_failures_have_a_detail_too(client: httpx.Client, server: Served) -> None:
    body = {"text": "Hi", "speaker_wav": "anna"}
    server.script.refuse = True
    assert list(client.post("/tts_to_audio", json=body).json()) == ["detail"]
    assert client.post("/tts_to_audio", json=body).status_code == 429
    assert list(client.post("/tts_to_audio", content=b"{").json()) == ["detail"]
    assert list(client.get("/tts_to_audio").json()) == ["detail"]
    assert client.get("/tts_stream").status_code == 400


@pytest.mark.parametrize("path", ["/tts_to_audio", "/tts_stream"])
def test_a_client_that_leaves_frees_its_slot(server: Served, path: str) -> None:
    server.script.render = gate = Gate()
    with server.send({"text": "Hi", "speaker_wav": "anna"}, path):
        assert gate.reached.wait(PATIENCE_S)
        assert server.open_requests == 1
    server.wait_idle()
    gate.open()


def test_uploads_are_off_unless_switched_on(client: httpx.Client) -> None:
    answer = upload(client)
    assert answer.status_code == 403
    assert list(answer.json()) == ["detail"]


@pytest.mark.parametrize("kind", ["WAV", "MP3"])
def test_an_uploaded_voice_is_listed_and_speaks_under_its_name(uploader: httpx.Client, kind: str) -> None:
    answer = upload(uploader, data=clip(kind))
    assert answer.status_code == 200
    assert sorted(answer.json()) == ["language", "message", "speaker_name"]
    assert (answer.json()["speaker_name"], answer.json()["language"]) == ("Lydia", "en")
    assert uploader.get("/speakers_list").json() == {"en": {"speakers": ["anna", "Lydia"]}}
    for name in ("Lydia", "lydia.wav", "default__Lydia"):
        assert uploader.post("/tts_to_audio/", json={"text": "Hi", "speaker_wav": name}).status_code == 200


def test_an_upload_replaces_an_earlier_one_and_no_other_voice(
    uploader: httpx.Client, cloning: Served, home: Path
) -> None:
    def speak(name: str) -> int:
        uploader.post("/tts_to_audio/", json={"text": "Hi", "speaker_wav": name})
        voice = cloning.script.spoken[-1].voice
        assert voice is not None
        return voice.nbytes

    upload(uploader)
    before, anna = snapshot(home), speak("anna")
    assert upload(uploader, data=clip(seconds=3.0)).json()["speaker_name"] == "Lydia"
    assert upload(uploader, name="anna", data=clip(seconds=3.0)).json()["speaker_name"] == "default__anna"
    made = changed(before, snapshot(home))
    assert all(path.startswith(("voices/default__Lydia.", "voices/default__anna.")) for path in made)
    assert uploader.get("/speakers_list").json() == {"en": {"speakers": ["anna", "default__anna", "Lydia"]}}
    assert speak("anna") == anna
    assert speak("default__anna") == speak("Lydia") > anna


@pytest.mark.parametrize("data", [b"", b"nonsense" * 500, clip("FLAC"), clip(level=0.0)], ids=["", "text", "flac", "0"])
def test_an_upload_of_no_use_is_refused(uploader: httpx.Client, home: Path, data: bytes) -> None:
    before = snapshot(home)
    answer = upload(uploader, data=data)
    assert answer.status_code == 400
    assert list(answer.json()) == ["detail"]
    assert changed(before, snapshot(home)) == set()


def test_an_incomplete_upload_is_refused(uploader: httpx.Client) -> None:
    for sent in (
        {"data": {"speaker_name": "x"}},
        {"files": {"wav_file": ("a.wav", clip())}},
        {"data": {"speaker_name": "x", "wav_file": "text"}},
        {"content": b"--broken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"{}", "headers": {"Content-Type": "application/json"}},
    ):
        answer = uploader.post("/create_and_store_latents", **sent)
        assert answer.status_code == 400, sent
        assert list(answer.json()) == ["detail"]


def test_an_upload_above_the_limit_is_413(uploader: httpx.Client) -> None:
    for size in (MAX_SAMPLE_BYTES + 1, MAX_SAMPLE_BYTES + 2**21):
        data = clip() + bytes(size - len(clip()))
        answer = upload(uploader, data=data)
        assert answer.status_code == 413
        assert list(answer.json()) == ["detail"]


def test_the_routes_can_be_switched_off(serve: Serve) -> None:
    server = serve(xtts_compat=False)
    assert httpx.get(server.url + "/speakers_list", verify=False).status_code == 404
