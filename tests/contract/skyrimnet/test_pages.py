"""SkyrimNet with the settings of docs/integrations/skyrimnet.md: an NPC's voice is uploaded once and then speaks."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.cloning import base64_clip, clip
from tests.contract.docs.audio import decoded
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Served, serving, write_voice

PAGE = Page("skyrimnet")
LINE = "I am sworn to carry your burdens."


@pytest.fixture(scope="module")
def skyrim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("voices")
    write_voice(folder / "narrator.wav")
    settings = PAGE.server_settings("The server").model_copy(update={"voices_dir": (str(folder),)})
    with serving(settings) as served:
        yield served


def client(heading: str, server: Served, **headers: str) -> httpx.Client:
    url = aimed(PAGE.settings(heading)["Endpoint"], server)
    return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S, verify=False)


@pytest.mark.parametrize("heading", ["XTTS", "Inworld"])
def test_the_port_is_the_one_that_the_page_names(heading: str) -> None:
    settings = PAGE.server_settings("The server")
    assert f"{settings.host}:{settings.port}" in PAGE.settings(heading)["Endpoint"]


def test_over_xtts(skyrim: Served) -> None:
    with client("XTTS", skyrim) as game:
        spoken = len(skyrim.script.spoken)
        ping = game.post("/tts_to_audio/", json={"text": "ping", "speaker_wav": "malenord", "language": "en"})
        assert (ping.status_code, len(skyrim.script.spoken)) == (200, spoken)
        files = {"wav_file": ("malenord.wav", clip(), "audio/wav")}
        for _ in range(2):
            stored = game.post("/create_and_store_latents", data={"speaker_name": "malenord"}, files=files)
            assert stored.status_code == 200
        said = game.post("/tts_to_audio/", json={"text": LINE, "speaker_wav": "malenord", "language": "en"})
        assert decoded(said.content).seconds > 0.5


def test_over_inworld(skyrim: Served) -> None:
    settings = PAGE.settings("Inworld")
    with client("Inworld", skyrim, Authorization=f"Basic {settings['API key']}") as game:
        upload = {"displayName": "femalenord", "langCode": "EN_US", "voiceSamples": [{"audioData": base64_clip()}]}
        cloned = game.post("/voices/v1/workspaces/skyrimnet/voices:clone", json=upload)
        voice = cloned.json()["voice"]["voiceId"]
        assert voice in [one["voiceId"] for one in game.get("/voices/v1/voices").json()["voices"]]
        body = {
            "text": LINE,
            "voiceId": voice,
            "modelId": settings["Model"],
            "audioConfig": {"audioEncoding": "LINEAR16", "sampleRateHertz": 24_000},
        }
        answer = game.post("/tts/v1/voice", json=body).json()
        audio = decoded(base64.b64decode(answer["audioContent"]))
        assert (audio.codec, audio.sample_rate) == ("pcm_s16le", 24_000)
        assert answer["usage"] == {"processedCharactersCount": len(LINE), "modelId": settings["Model"]}
        typed_in = game.post("/tts/v1/voice:stream", json={**body, "voiceId": "narrator"})
        assert typed_in.status_code == 200


def test_what_was_uploaded_is_there_after_a_restart(skyrim: Served, tmp_path: Path) -> None:
    with client("Inworld", skyrim) as game:
        upload = {"displayName": "malecommander", "voiceSamples": [{"audioData": base64_clip()}]}
        assert game.post("/voices/v1/workspaces/skyrimnet/voices:clone", json=upload).status_code == 200
    with serving(skyrim.runtime.settings) as again, client("Inworld", again) as game:
        body = {"text": LINE, "voiceId": "skyrimnet__malecommander"}
        assert game.post("/tts/v1/voice", json=body).status_code == 200
