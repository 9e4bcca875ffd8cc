"""Inworld's voice routes: lists, look-ups, cloning, describing, deleting."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.contract.cloning import MAX_SAMPLE_BYTES, base64_clip, changed, clip, snapshot
from tests.contract.inworld.calls import Json, open_socket, post, speak
from tests.contract.serving import Serve, Served, write_voice

WORKSPACE = "/voices/v1/workspaces/skyrim/voices"
PLAIN = "/voices/v1/voices"


def get(server: Served, path: str, **params: str | int) -> Json:
    answer = httpx.get(server.url + path, params=params)
    assert answer.status_code == 200, answer.text
    result: Json = answer.json()
    return result


def clone(server: Served, path: str = WORKSPACE, **fields: Any) -> Json:
    body = {"displayName": "Lydia", "langCode": "EN_US", "voiceSamples": [{"audioData": base64_clip()}], **fields}
    answer = post(server, path + ":clone", body)
    assert answer.status_code == 200, answer.text
    result: Json = answer.json()
    return result


def error(answer: httpx.Response) -> tuple[int, int]:
    body = answer.json()
    assert {"code", "message", "details"} <= set(body)
    return answer.status_code, body["code"]


# -- lists -----------------------------------------------------------------------------------------------------------


def test_the_short_list_has_every_voice_with_its_languages(server: Served) -> None:
    voices = get(server, "/tts/v1/voices")["voices"]
    assert [voice["voiceId"] for voice in voices] == ["anna", "bob", "Old Man"]
    assert voices[0] == {"languages": ["en"], "voiceId": "anna", "displayName": "anna", "description": "", "tags": []}


def test_the_short_list_can_be_narrowed_to_a_language(server: Served) -> None:
    assert len(get(server, "/tts/v1/voices", filter="language=en")["voices"]) == 3
    assert get(server, "/tts/v1/voices", filter="language=fr")["voices"] == []


@pytest.mark.parametrize(("path", "workspace"), [(PLAIN, "default"), (WORKSPACE, "skyrim")])
def test_the_full_list_shows_built_in_voices(server: Served, path: str, workspace: str) -> None:
    answer = get(server, path)
    assert (answer["totalSize"], answer["nextPageToken"]) == (3, "")
    assert answer["voices"][1] == {
        "name": f"workspaces/{workspace}/voices/bob",
        "voiceId": "bob",
        "displayName": "bob",
        "langCode": "EN_US",
        "description": "",
        "tags": [],
        "source": "SYSTEM",
    }


def test_pages_are_followed_until_the_token_is_empty(server: Served) -> None:
    token, seen = "", []
    for _ in range(5):
        answer = get(server, PLAIN, pageSize=2, pageToken=token, orderBy="name desc")
        assert answer["totalSize"] == 3
        seen.append([voice["voiceId"] for voice in answer["voices"]])
        if not (token := answer["nextPageToken"]):
            break
    assert seen == [["anna", "bob"], ["Old Man"]]


@pytest.mark.parametrize("query", [{"pageSize": "-1"}, {"pageSize": "many"}, {"pageToken": "../x"}])
def test_a_wrong_page_is_refused(server: Served, query: dict[str, str]) -> None:
    assert error(httpx.get(server.url + PLAIN, params=query)) == (400, 3)


@pytest.mark.parametrize("path", [f"{PLAIN}/anna", f"{WORKSPACE}/anna"])
def test_one_voice_can_be_looked_at(server: Served, path: str) -> None:
    assert get(server, path)["voiceId"] == "anna"


def test_an_unknown_voice_is_404(server: Served) -> None:
    for path in (f"{PLAIN}/nobody", f"{WORKSPACE}/nobody"):
        assert error(httpx.get(server.url + path)) == (404, 5)


# -- cloning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PLAIN + ":clone", WORKSPACE + ":clone"])
def test_cloning_is_off_unless_switched_on(server: Served, path: str) -> None:
    assert error(post(server, path, {"displayName": "x"})) == (403, 7)


def test_a_quota_of_clones_is_told_as_what_it_is(serve: Serve, tmp_path: Path) -> None:
    write_voice(tmp_path / "anna.wav")
    server = serve(voices_dir=(str(tmp_path),), inworld_clone_enabled=True, max_clones=1)
    clone(server, displayName="one")
    refused = post(server, PLAIN + ":clone", {"displayName": "two", "voiceSamples": [{"audioData": base64_clip()}]})
    assert error(refused) == (403, 7)
    assert "as many cloned voices as may be" in refused.json()["message"]
    clone(server, displayName="one")


@pytest.mark.parametrize("method", ["DELETE", "PATCH"])
def test_changing_voices_is_off_as_well(server: Served, method: str) -> None:
    assert error(httpx.request(method, server.url + PLAIN + "/anna", content=b"{}")) == (403, 7)


@pytest.mark.parametrize("kind", ["WAV", "MP3"])
def test_a_clone_is_described_and_can_speak_at_once(cloning: Served, kind: str) -> None:
    answer = clone(
        cloning,
        description="A housecarl",
        tags=["npc", "nord"],
        voiceSamples=[{"audioData": base64_clip(kind), "transcription": "Hello."}],
    )
    assert answer["voice"] == {
        "name": "workspaces/skyrim/voices/Lydia",
        "voiceId": "skyrim__Lydia",
        "displayName": "Lydia",
        "langCode": "EN_US",
        "description": "A housecarl",
        "tags": ["npc", "nord"],
        "source": "IVC",
    }
    (report,) = answer["audioSamplesValidated"]
    assert (report["langCode"], report["errors"], report["transcription"]) == ("EN_US", [], "Hello.")
    assert all(list(warning) == ["text"] for warning in report["warnings"])
    assert speak(cloning, voiceId="skyrim__Lydia")["audioContent"]
    speech = httpx.post(cloning.url + "/v1/audio/speech", json={"input": "Hi", "voice": "skyrim__Lydia"})
    assert speech.status_code == 200
    with open_socket(cloning) as socket:
        socket.create(voiceId="skyrim__Lydia")


def test_snake_case_is_read_as_well(cloning: Served) -> None:
    body = {"display_name": "Lydia", "lang_code": "AUTO", "voice_samples": [{"audio_data": base64_clip()}]}
    answer = post(cloning, PLAIN + ":clone", body)
    assert answer.json()["voice"]["voiceId"] == "default__Lydia"


def test_a_clone_is_found_by_full_id_and_by_short_name(cloning: Served) -> None:
    clone(cloning)
    for path in (f"{WORKSPACE}/Lydia", f"{WORKSPACE}/skyrim__Lydia", f"{PLAIN}/skyrim__Lydia"):
        assert get(cloning, path)["voiceId"] == "skyrim__Lydia"
    assert error(httpx.get(cloning.url + PLAIN + "/Lydia")) == (404, 5)


def test_a_workspace_shows_its_own_clones(cloning: Served) -> None:
    clone(cloning)
    assert [voice["voiceId"] for voice in get(cloning, WORKSPACE)["voices"]] == ["anna", "skyrim__Lydia"]
    other = "/voices/v1/workspaces/fallout/voices"
    assert [voice["voiceId"] for voice in get(cloning, other)["voices"]] == ["anna"]
    assert error(httpx.get(cloning.url + other + "/skyrim__Lydia")) == (404, 5)
    assert [voice["voiceId"] for voice in get(cloning, PLAIN)["voices"]] == ["anna", "skyrim__Lydia"]


def test_several_samples_are_used_together(cloning: Served) -> None:
    samples = [{"audioData": base64_clip(seconds=1.0)}, {"audioData": base64_clip("MP3", seconds=1.0)}]
    assert len(clone(cloning, voiceSamples=samples)["audioSamplesValidated"]) == 2
    speak(cloning, voiceId="skyrim__Lydia")
    (voice,) = [u.voice for u in cloning.script.spoken if u.voice is not None][-1:]
    assert voice.nbytes > 44_100 * 1.9 / 100


def test_cloning_a_name_again_replaces_it(cloning: Served) -> None:
    clone(cloning)
    speak(cloning, voiceId="skyrim__Lydia")
    clone(cloning, voiceSamples=[{"audioData": base64_clip(seconds=3.0)}])
    speak(cloning, voiceId="skyrim__Lydia")
    first, second = [u.voice.nbytes for u in cloning.script.spoken if u.voice is not None][-2:]
    assert second > first
    assert get(cloning, WORKSPACE)["totalSize"] == 2


@pytest.mark.parametrize(
    ("name", "voice_id"),
    [
        ("Lydia's  voice!", "skyrim__Lydias voice"),
        ("../../outside", "skyrim__outside"),
        ("/etc/passwd", "skyrim__etcpasswd"),
        ("a\x00b", "skyrim__ab"),
        ("..%2fanna", "skyrim__2fanna"),
        ("Ærik", "skyrim__Ærik"),
    ],
)
def test_a_name_is_reduced_to_what_is_harmless(cloning: Served, home: Path, name: str, voice_id: str) -> None:
    before = snapshot(home)
    assert clone(cloning, displayName=name)["voice"]["voiceId"] == voice_id
    assert all(path.startswith("voices/skyrim__") for path in changed(before, snapshot(home)))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"displayName": None}, "displayName"),
        ({"displayName": "../.."}, "displayName"),
        ({"displayName": 5}, "displayName"),
        ({"displayName": "x" * 500}, "displayName"),
        ({"voiceSamples": []}, "voiceSamples"),
        ({"voiceSamples": None}, "voiceSamples"),
        ({"voiceSamples": "audio"}, "voiceSamples"),
        ({"voiceSamples": [{}]}, "voiceSamples.0.audioData"),
        ({"tags": "npc"}, "tags"),
    ],
)
def test_a_wrong_upload_is_refused_and_stores_nothing(cloning: Served, home: Path, fields: Json, named: str) -> None:
    before = snapshot(home)
    body = {"displayName": "Lydia", "voiceSamples": [{"audioData": base64_clip()}], **fields}
    answer = post(cloning, WORKSPACE + ":clone", body)
    assert error(answer) == (400, 3)
    assert named in answer.json()["message"]
    assert changed(before, snapshot(home)) == set()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "sample",
    [
        "",
        "not base64 at all!",
        _b64(b"MZ" + bytes(3000)),
        _b64(b"RIFF\x00\x00\x00\x00WAVE" + bytes(3000)),
        _b64(b"ID3" + np.random.default_rng(0).bytes(3000)),
        _b64(clip("FLAC")),
        _b64(clip("OGG")),
        _b64(clip(level=0.0)),
        _b64(clip(seconds=0.001)),
    ],
    ids=["empty", "text", "program", "wav header only", "mp3 tag only", "flac", "ogg", "silence", "too short"],
)
def test_a_sample_that_is_of_no_use_is_refused_and_reported(cloning: Served, home: Path, sample: str) -> None:
    before = snapshot(home)
    body = {"displayName": "Lydia", "voiceSamples": [{"audioData": base64_clip()}, {"audioData": sample}]}
    answer = post(cloning, WORKSPACE + ":clone", body)
    assert error(answer) == (400, 3)
    good, bad = answer.json()["audioSamplesValidated"]
    assert good["errors"] == []
    assert len(bad["errors"]) == 1
    assert changed(before, snapshot(home)) == set()


def test_samples_above_the_limit_are_413_with_code_3(cloning: Served) -> None:
    half = {"audioData": base64_clip(seconds=6.0)}
    assert error(post(cloning, WORKSPACE + ":clone", {"displayName": "x", "voiceSamples": [half] * 2})) == (413, 3)


def test_a_body_above_the_limit_is_refused_while_it_is_read(cloning: Served) -> None:
    def endless() -> Any:
        yield b'{"displayName":"x","voiceSamples":[{"audioData":"'
        for _ in range(1000):
            yield b"A" * 65536

    try:
        answer = httpx.post(cloning.url + WORKSPACE + ":clone", content=endless(), timeout=10)
    except httpx.WriteError:
        return  # the server had closed the connection before all was sent
    assert error(answer) == (413, 3)


def test_an_upload_just_within_the_limit_is_taken(cloning: Served) -> None:
    data = clip(seconds=9.3)
    assert 0.95 * MAX_SAMPLE_BYTES < len(data) <= MAX_SAMPLE_BYTES
    assert clone(cloning, voiceSamples=[{"audioData": base64.encodebytes(data).decode()}])["voice"]


# -- describing and deleting -----------------------------------------------------------------------------------------


def test_a_clone_can_be_described_anew(cloning: Served) -> None:
    clone(cloning, tags=["npc"])
    change = {"display_name": "Lydia of Whiterun", "description": "sworn", "unknown": 1}
    answer = httpx.patch(cloning.url + WORKSPACE + "/Lydia", json=change)
    assert answer.status_code == 200
    voice = get(cloning, WORKSPACE + "/Lydia")
    assert voice == answer.json()
    assert (voice["displayName"], voice["description"], voice["tags"]) == ("Lydia of Whiterun", "sworn", ["npc"])
    assert voice["voiceId"] == "skyrim__Lydia"


@pytest.mark.parametrize("path", [f"{WORKSPACE}/Lydia", f"{WORKSPACE}/skyrim__Lydia", f"{PLAIN}/skyrim__Lydia"])
def test_a_clone_can_be_deleted(cloning: Served, path: str) -> None:
    clone(cloning)
    answer = httpx.delete(cloning.url + path)
    assert (answer.status_code, answer.json()) == (200, {})
    assert error(httpx.delete(cloning.url + path)) == (404, 5)
    gone = post(cloning, "/tts/v1/voice", {"text": "Hi", "voiceId": "skyrim__Lydia"})
    assert error(gone) == (404, 5)


def test_a_deleted_clone_leaves_nothing_in_memory(cloning: Served) -> None:
    # A recording of its own: what other clones of the same content keep is theirs.
    clone(cloning, voiceSamples=[{"audioData": base64_clip(seconds=1.7)}])
    speak(cloning, voiceId="skyrim__Lydia")
    held = cloning.runtime.cache.stats().entries
    httpx.delete(cloning.url + WORKSPACE + "/Lydia")
    assert cloning.runtime.cache.stats().entries == held - 1


@pytest.mark.parametrize("path", [f"{PLAIN}/anna", f"{WORKSPACE}/anna"])
def test_a_voice_that_is_no_clone_cannot_be_changed(cloning: Served, home: Path, path: str) -> None:
    before = snapshot(home)
    assert error(httpx.delete(cloning.url + path)) == (403, 7)
    assert error(httpx.patch(cloning.url + path, json={"displayName": "x"})) == (403, 7)
    assert changed(before, snapshot(home)) == set()


@pytest.mark.parametrize("name", ["lydia", "LYDIA", "skyrim__lydia", "Ly dia"])
def test_deleting_takes_the_exact_name(cloning: Served, name: str) -> None:
    clone(cloning)
    assert error(httpx.delete(cloning.url + f"{WORKSPACE}/{name}")) == (404, 5)
    assert get(cloning, WORKSPACE + "/Lydia")


def test_one_workspace_cannot_change_anothers_clone(cloning: Served) -> None:
    clone(cloning)
    other = "/voices/v1/workspaces/fallout/voices"
    for name in ("Lydia", "skyrim__Lydia"):
        assert error(httpx.delete(cloning.url + f"{other}/{name}")) == (404, 5)
        assert error(httpx.patch(cloning.url + f"{other}/{name}", json={"displayName": "x"})) == (404, 5)
    assert error(httpx.delete(cloning.url + f"{PLAIN}/Lydia")) == (404, 5)
    assert get(cloning, WORKSPACE + "/Lydia")["displayName"] == "Lydia"
