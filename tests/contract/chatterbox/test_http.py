"""POST /synthesize, /preload and /warmup, and what /health tells."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
import soundfile

from echo.audio.frames import FRAME_BYTES, MULAW_SILENCE
from tests.contract.chatterbox.calls import SENTENCE, post, whole
from tests.contract.serving import Gate, Serve, Served

PRESETS = {"balanced", "expressive", "fast", "clone_fidelity", "realtime", "adaptive"}


def test_mu_law_is_a_list_of_frames(server: Served) -> None:
    text = " ".join([SENTENCE] * 3)
    answer = post(server, "/synthesize", {"text": text, "voice_id": "anna", "seed": 3})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {
        *("audio", "duration_seconds", "sample_rate", "format", "total_ms", "latency", "backend"),
    }
    frames = [base64.b64decode(frame, validate=True) for frame in body["audio"]]
    assert all(len(frame) == FRAME_BYTES for frame in frames)
    same = whole(server, text, 3)
    assert b"".join(frames) == same + MULAW_SILENCE * (-len(same) % FRAME_BYTES)
    assert body["duration_seconds"] == pytest.approx(len(same) / 8000, abs=1e-3)
    assert (body["sample_rate"], body["format"], body["backend"]) == (8000, "mulaw", "fake")
    assert set(body["latency"]) == {"voice_load", "queue", "generation", "transcode"}
    assert isinstance(body["total_ms"], int)


def test_wav_is_one_file(server: Served) -> None:
    body = post(server, "/synthesize", {"text": SENTENCE, "voice_id": "anna", "output_format": "wav"}).json()
    data = base64.b64decode(body["audio"], validate=True)
    samples, rate = soundfile.read(io.BytesIO(data))
    assert (rate, body["sample_rate"], body["format"]) == (44_100, 44_100, "wav")
    assert len(samples) / rate == pytest.approx(body["duration_seconds"], abs=1e-3)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"voice_id": "anna"}, 422, "text: this field is required."),
        ({"text": "Hello."}, 422, "voice_id: this field is required."),
        ({"text": "", "voice_id": "anna"}, 422, "text: "),
        ({"text": "Hello.", "voice_id": "a/b"}, 422, "Invalid voice_id format: "),
        ({"text": "Hello.", "voice_id": "nobody"}, 404, "Voice not found: nobody"),
        ({"text": "Hello.", "voice_id": "anna", "output_format": "ogg"}, 422, "output_format: "),
        ({"text": "a" * 5000, "voice_id": "anna"}, 422, "text: "),
        ([], 422, "The body must be a JSON object."),
    ],
)
def test_what_is_wrong_is_told_under_detail(server: Served, body: object, status: int, detail: str) -> None:
    answer = post(server, "/synthesize", body)
    assert answer.status_code == status
    assert set(answer.json()) == {"detail"}
    assert answer.json()["detail"].startswith(detail)


def test_json_that_is_none_is_refused(server: Served) -> None:
    answer = httpx.post(f"{server.url}/synthesize", content=b"{", verify=False)
    assert (answer.status_code, set(answer.json())) == (422, {"detail"})


def test_preloading_tells_of_each_voice(server: Served) -> None:
    answer = post(server, "/preload", ["anna", "nobody", "bob", "a/b"])
    assert answer.status_code == 200
    assert answer.json()["preloaded"] == {"anna": True, "nobody": False, "bob": True, "a/b": False}
    sizes = answer.json()["cache_stats"]
    assert set(sizes) == {"waveform_cache_size", "path_cache_size", "embedding_cache_size"}
    assert sizes["embedding_cache_size"] >= 1  # equal clips share one
    assert server.open_requests == 0


@pytest.mark.parametrize("body", [{"voice": "anna"}, "anna", [1], [["anna"]], None, ["a"] * 101])
def test_preloading_takes_a_list_of_names(server: Served, body: object) -> None:
    answer = post(server, "/preload", body)
    assert (answer.status_code, set(answer.json())) == (422, {"detail"})


def test_a_warm_up_speaks(server: Served) -> None:
    answer = post(server, "/warmup?voice_id=anna")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["voice_id"], body["ready"]) == ("anna", True)
    assert isinstance(body["warmup_ms"], int)
    (utterance,) = server.script.spoken
    assert utterance.plan.blocks[0].size == 16  # as realtime has it
    assert post(server, "/warmup?voice_id=anna&preset=fast").status_code == 200
    assert server.script.spoken[1].plan.blocks[0].size == 32


@pytest.mark.parametrize(("query", "status"), [("", 422), ("?voice_id=nobody", 404), ("?voice_id=a%2Fb", 422)])
def test_a_warm_up_needs_a_voice(server: Served, query: str, status: int) -> None:
    answer = post(server, f"/warmup{query}")
    assert (answer.status_code, set(answer.json())) == (status, {"detail"})


def test_health_lists_the_presets(server: Served) -> None:
    health = httpx.get(f"{server.url}/health", verify=False).json()
    assert set(health["presets"]) >= PRESETS
    assert {"status", "model_loaded", "device", "cached_voices", "cached_paths"} <= set(health)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_speaks_whatever_the_wire_format(server: Served, preset: str) -> None:
    assert post(server, "/synthesize", {"text": "Hi.", "voice_id": "anna", "preset": preset}).status_code == 200
    assert post(server, "/v1/audio/speech", {"input": "Hi.", "voice": "anna", "preset": preset}).status_code == 200
    first, second = server.script.spoken
    assert first.plan == second.plan


def test_a_client_that_leaves_frees_its_slot(server: Served) -> None:
    gate = Gate()
    server.script.render = gate
    connection = server.send({"text": SENTENCE, "voice_id": "anna"}, "/synthesize")
    assert gate.reached.wait(10)
    connection.close()
    server.wait_idle()
    gate.open()


@pytest.mark.parametrize("path", ["/synthesize", "/preload", "/warmup"])
def test_a_key_is_needed_where_there_are_keys(serve: Serve, path: str) -> None:
    answer = post(serve(api_keys=("right",)), path, {})
    assert (answer.status_code, set(answer.json())) == (401, {"detail"})


def test_an_engine_without_these_presets_speaks_with_its_own(serve: Serve, tmp_path: Any) -> None:
    file = tmp_path / "presets.toml"
    file.write_text("[echo.default]\nblock_sizes = [24, 600]\nnum_steps = [4, 4]\n")
    server = serve(presets_file=file)
    assert post(server, "/synthesize", {"text": "Hi.", "voice_id": "anna", "preset": "fast"}).status_code == 200
    assert server.script.spoken[0].plan.blocks[0].size == 24


def test_it_can_be_switched_off(serve: Serve) -> None:
    server = serve(chatterbox_compat=False)
    for path in ("/synthesize", "/preload", "/warmup"):
        assert post(server, path, {}).status_code == 404
