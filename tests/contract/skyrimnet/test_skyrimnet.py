"""SkyrimNet: clones an NPC's voice on first use and speaks with it at once.

Its client is not public; these requests follow the providers that its documentation names.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import pytest
import soundfile

from tests.contract.cloning import base64_clip, clip
from tests.contract.serving import Served


@pytest.fixture
def client(cloning: Served) -> Iterator[httpx.Client]:
    headers = {"Authorization": "Basic abc123", "Content-Type": "application/json"}
    with httpx.Client(base_url=cloning.url, headers=headers, verify=False) as opened:
        yield opened


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("encoding", ["LINEAR16", "MP3"])
def test_an_npc_is_cloned_and_speaks_at_once(client: httpx.Client, encoding: str, slash: str) -> None:
    upload = {
        "displayName": "femaleeventoned Lydia",
        "langCode": "EN_US",
        "voiceSamples": [{"audioData": base64_clip(seconds=3.0)}],
        "audioProcessingConfig": {"removeBackgroundNoise": False},
    }
    cloned = client.post(f"/voices/v1/workspaces/skyrimnet/voices:clone{slash}", json=upload)
    voice_id = cloned.json()["voice"]["voiceId"]
    assert voice_id == "skyrimnet__femaleeventoned Lydia"
    line = {
        "text": "[happy] I am sworn to carry your burdens. *sighs*",
        "voiceId": voice_id,
        "modelId": "inworld-tts-1",
        "audioConfig": {"audioEncoding": encoding, "sampleRateHertz": 24000, "pitch": 0, "speakingRate": 1.0},
        "temperature": 0.8,
    }
    whole = client.post(f"/tts/v1/voice{slash}", json=line)
    info = soundfile.info(io.BytesIO(base64.b64decode(whole.json()["audioContent"])))
    assert (info.samplerate, info.channels) == (24000, 1)
    streamed = client.post(f"/tts/v1/voice:stream{slash}", json=line)
    assert streamed.status_code == 200


def test_stage_marks_are_not_spoken(client: httpx.Client, cloning: Served) -> None:
    line = {"text": "*sighs* I am sworn to carry your burdens.", "voiceId": "anna"}
    assert client.post("/tts/v1/voice", json=line).status_code == 200
    assert "sighs" not in cloning.script.spoken[-1].text
    assert "sworn to carry your burdens" in cloning.script.spoken[-1].text


def test_an_npc_is_uploaded_over_xtts_and_speaks_at_once(cloning: Served) -> None:
    with httpx.Client(base_url=cloning.url, verify=False) as client:
        ping = client.post("/tts_to_audio/", json={"text": "ping", "speaker_wav": "malenord", "language": "en"})
        assert ping.status_code == 200
        uploaded = client.post(
            "/create_and_store_latents",
            data={"speaker_name": "malenord", "language": "en"},
            files={"wav_file": ("malenord.wav", clip(), "audio/wav")},
        )
        assert uploaded.status_code == 200
        assert "malenord" in client.get("/speakers_list").json()["en"]["speakers"]
        line = {"text": "Hail, companion.", "speaker_wav": "malenord", "language": "en", "save_path": "hail"}
        spoken = client.post("/tts_to_audio/", json=line)
        assert soundfile.info(io.BytesIO(spoken.content)).duration > 0.5
