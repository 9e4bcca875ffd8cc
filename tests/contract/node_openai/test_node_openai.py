"""The official Node SDK against a real server, and the Node code of docs/integrations/openai-sdk.md."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Serve, Served

HERE = Path(__file__).parent
PAGE = Page("openai-sdk")
TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."


def call(server: Served, method: str, request: Any = None, *, read: str = "all", **client: Any) -> dict[str, Any]:
    """Call a method of the SDK in a process of its own; returns what speak.mjs prints."""
    asked = {"client": {"baseURL": f"{server.url}/v1", **client}, "method": method, "request": request, "read": read}
    command = ["node", str(HERE / "speak.mjs"), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def speak(server: Served, *, read: str = "all", client: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    request = {"model": "tts-1", "voice": "tiny_anna", "input": TEXT, **fields}
    return call(server, "speech", request, read=read, **(client or {}))


def audio_of(answer: dict[str, Any]) -> bytes:
    assert "error" not in answer, answer
    return base64.b64decode(answer["audio"])


def run(heading: str, server: Served, folder: Path) -> None:
    """Run the code of a section of the page in a folder of its own."""
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    (folder / "example.mjs").write_text(aimed(PAGE.block(heading, "javascript"), server), encoding="utf-8")
    done = subprocess.run(["node", "example.mjs"], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_the_pages_example_writes_a_file(checkout: Served, tmp_path: Path) -> None:
    run("Node", checkout, tmp_path)
    audio = decoded((tmp_path / "speech.mp3").read_bytes())
    assert audio.codec == "mp3float"
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_the_pages_options_arrive(checkout: Served, tmp_path: Path) -> None:
    run("Node, with options of this server", checkout, tmp_path)
    assert decoded((tmp_path / "speech.wav").read_bytes()).sample_rate == 48_000
    assert [utterance.seed for utterance in checkout.script.spoken] == [42]


def test_pcm_has_openais_rate(checkout: Served) -> None:
    answer = speak(checkout, model="gpt-4o-mini-tts", response_format="pcm")
    assert answer["headers"]["x-audio-sample-rate"] == "24000"
    assert len(audio_of(answer)) / 2 / 24_000 == pytest.approx(spoken_seconds(checkout), abs=0.05)


def test_a_nested_extra_body_means_the_same_as_fields_at_the_top(checkout: Served) -> None:
    options: dict[str, Any] = {"seed": 42, "block_sizes": [16, 64], "num_steps": [2, 3]}
    nested = audio_of(speak(checkout, response_format="pcm", extra_body=options))
    assert nested == audio_of(speak(checkout, response_format="pcm", **options))
    first, second = checkout.script.spoken
    assert (first.plan, first.seed) == (second.plan, 42)


def test_a_client_that_has_enough_frees_its_slot(checkout: Served) -> None:
    checkout.script.block_s = 0.05
    assert audio_of(speak(checkout, response_format="pcm", read="first", input=TEXT * 10))
    checkout.wait_idle()


def test_models_are_listed(checkout: Served) -> None:
    models = call(checkout, "models.list")["value"]["data"]
    assert {"tts-1", "gpt-4o-mini-tts"} <= {model["id"] for model in models}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"voice": "nobody"}, "voice", "voice_not_found"),
        ({"input": ""}, "input", "missing_required_parameter"),
        ({"extra_body": {"seed": "7"}}, "seed", "invalid_type"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    checkout: Served, fields: dict[str, Any], param: str, code: str
) -> None:
    failed = speak(checkout, **fields)
    assert (failed["error"], failed["status"]) == ("BadRequestError", 400)
    assert (failed["param"], failed["code"], failed["type"]) == (param, code, "invalid_request_error")
    assert failed["requestID"]


def test_a_wrong_key_is_an_authentication_error(serve: Serve) -> None:
    server = serve(api_keys=("right",))
    assert speak(server, client={"apiKey": "wrong"})["error"] == "AuthenticationError"
    assert audio_of(speak(server, voice="anna", client={"apiKey": "right"}))


def test_a_failed_generation_is_not_repeated(checkout: Served) -> None:
    checkout.script.fail_before = True
    failed = speak(checkout, client={"maxRetries": 2})
    assert (failed["error"], failed["code"]) == ("InternalServerError", "generation_failed")
    assert len(checkout.script.spoken) == 1


def test_a_failure_after_the_first_byte_is_an_error_and_not_a_short_file(checkout: Served) -> None:
    checkout.script.fail_after_blocks = 1
    assert "error" in speak(checkout, response_format="pcm", model="gpt-4o-mini-tts")
