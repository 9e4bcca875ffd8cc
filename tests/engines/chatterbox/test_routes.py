"""Chatterbox behind the server's routes, with its presets: on a tiny random checkpoint, so only lengths are judged."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import pytest
import soundfile

from echo.settings import load_settings
from tests.contract.chatterbox.calls import REQUESTS, open_socket
from tests.contract.serving import Served, serving
from tests.engines.chatterbox.conftest import RATE, TOKEN, Checkpoints, clip
from tests.engines.process import PATIENCE_S

TEXT = "Nothing is heard so well as this."
#: Every text has so many tokens in this checkpoint.
TOKENS = 40


@pytest.fixture(scope="module")
def server(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("chatterbox")
    soundfile.write(folder / "anna.wav", clip(1, 6, 44_100), 44_100)
    options = ", ".join(f'{name} = "{value}"' for name, value in checkpoints.options("english").items())
    (folder / "engines.toml").write_text(
        f'[chatterbox]\nadapter = "chatterbox"\npython = "{checkpoints.python}"\n'
        f'model = "{checkpoints.folder / "english"}"\noptions = {{{options}}}\n'
    )
    settings = {
        "ECHO_ENGINES": "chatterbox",
        "ECHO_ENGINES_FILE": str(folder / "engines.toml"),
        "ECHO_VOICES_DIR": str(folder),
    }
    with serving(load_settings(settings)) as served:
        yield served


def post(server: Served, **body: object) -> httpx.Response:
    fields = {"input": TEXT, "model": "chatterbox", "voice": "anna", "seed": 3, "response_format": "wav", **body}
    return httpx.post(server.url + "/v1/audio/speech", json=fields, timeout=PATIENCE_S, verify=False)


@pytest.mark.parametrize("preset", ["balanced", "expressive", "fast", "clone_fidelity", "realtime", "adaptive"])
def test_every_preset_of_the_old_server_speaks(server: Served, preset: str) -> None:
    answer = post(server, preset=preset)
    assert answer.status_code == 200, answer.text
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert (len(samples), rate) == (TOKENS * TOKEN, RATE)


def test_an_option_is_the_engines_own_and_a_wrong_one_is_refused(server: Served) -> None:
    assert post(server, s3gen_steps=1).content != post(server).content
    refused = post(server, exaggeration=3.0)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "exaggeration")
    refused = post(server, num_steps=8)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_steps")


def test_its_own_clients_get_frames_as_they_are_made(server: Served) -> None:
    with open_socket(server, REQUESTS) as socket:
        socket.send({"text": TEXT, "voice_id": "anna", "preset": "realtime"})
        *pieces, final = socket.answer()
    assert final["backend"].startswith("chatterbox")
    frames = [base64.b64decode(piece["audio"]) for piece in pieces]
    assert {len(frame) for frame in frames} == {160}
    assert len(frames) == pytest.approx(TOKENS * 2, abs=2)  # a token is 40 ms, a frame 20
