"""The playground as a person uses it, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from echo.engines.fake import FakeEngine, FakeScript
from echo.engines.load import load_engine
from echo.settings import Settings
from echo.types import EngineInfo, EngineOption
from tests.contract.playground.browser import PATIENCE_MS, Playground, playground, running_browser
from tests.contract.serving import Gate, Served, serving, write_voice

TEXT = "Hello there. This is spoken."
#: More than one block: the first is 32 latents of 46.4 ms.
TWO_BLOCKS = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen."
#: Longer than any test takes to get to its end.
LONG = " ".join([TWO_BLOCKS] * 6)
#: Seconds of audio per character where a test listens to the end.
BRISK = 0.025

Open = Callable[..., Playground]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def cloning_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("voices")
    for name in ("anna", "bob"):
        write_voice(folder / f"{name}.wav")
    with serving(Settings(voices_dir=(str(folder),), inworld_clone_enabled=True)) as served:
        yield served


@pytest.fixture
def host(cloning_server: Served) -> Iterator[Served]:
    """A server with the voices ``anna`` and ``bob``, where voices can be made, with a fresh script."""
    cloning_server.engine.script = FakeScript(audio_s_per_char=BRISK)
    yield cloning_server
    cloning_server.wait_idle()


@pytest.fixture
def visit(browser: Browser, host: Served) -> Iterator[Open]:
    """Open the page; options are those of a browser's context."""
    with ExitStack() as stack:

        def opened(server: Served = host, path: str = "/", before: str = "", **context: Any) -> Playground:
            page = stack.enter_context(playground(browser, server, **context))
            if before:
                page.page.add_init_script(before)
            page.open(path)
            return page

        yield opened


def spoken(server: Served) -> list[str]:
    return [utterance.text for utterance in server.script.spoken]


# -- speaking


def test_it_is_heard_before_it_is_complete(host: Served, visit: Open) -> None:
    page = visit()
    host.script.render = gate = Gate(block=1, patience_s=PATIENCE_MS / 1000)
    page.page.fill("#text", TWO_BLOCKS)
    page.page.press("#text", "Control+Enter")
    page.player(state="playing", stream="open")
    page.until("document.getElementById('player').dataset.playedSamples > 4410")
    assert drawn(page), "the waveform grows with what has arrived"
    assert gate.reached.wait(PATIENCE_MS / 1000)
    arrived = page.told("received-bytes")
    assert arrived > 0
    expect(page.page.locator("#first-sound")).to_contain_text(" s")
    # What arrives while it pauses is shown, too.
    page.page.click("#play")
    page.player(state="paused", stream="open")
    gate.open()
    page.player(state="paused", stream="done")
    expect(page.page.locator("#time")).to_contain_text(f"/ {page.told('received-bytes') / 88200:.1f} s")
    page.page.click("#play")
    page.player(state="ended", stream="done")
    assert not gate.expired
    assert page.told("received-bytes") > arrived
    assert page.told("played-samples") * 2 == page.told("received-bytes")
    expect(page.page.locator("#factor")).not_to_have_text("–")
    expect(page.page.locator("#rerolls")).to_have_text("0")
    expect(page.page.locator("#queue")).to_contain_text(" s")
    expect(page.page.locator("#method")).to_contain_text("estimate")


def drawn(page: Playground) -> bool:
    """Whether there is anything on the waveform of what is still arriving."""
    return bool(
        page.page.evaluate(
            """() => {
              const canvas = document.querySelector("#waveform > canvas");
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              return data.some((value) => value > 0);
            }"""
        )
    )


def test_a_word_is_played_from_when_it_is_chosen(visit: Open) -> None:
    page = visit()
    page.speak(LONG)
    page.player(state="playing", stream="done")
    words = page.page.locator("#words button")
    assert words.all_inner_texts() == LONG.split()
    # The waveform and the spectrogram are drawn.
    page.until("document.querySelector('#waveform div')?.shadowRoot.querySelector('canvas')?.width > 100")
    page.until("document.querySelector('#spectrogram canvas')?.width > 100")
    words.last.click()
    page.player(state="ended")
    expect(words.last).to_have_attribute("aria-current", "true")
    assert page.told("played-samples") * 2 < page.told("received-bytes"), "it went on without what lay between"
    page.page.locator("#position").fill("0.05")
    expect(words.nth(0)).to_have_attribute("aria-current", "true")
    page.forget()
    page.page.click("#play")
    page.passed("playing")
    page.page.click("#play")
    page.passed("paused")


def test_without_audio_worklets_it_plays_by_scripts(visit: Open) -> None:
    page = visit(before="delete BaseAudioContext.prototype.audioWorklet")
    page.heard(TEXT)
    assert page.told("played-samples") * 2 == page.told("received-bytes") > 0


def test_stopping_frees_the_device_and_keeps_what_was_heard(host: Served, visit: Open) -> None:
    page = visit()
    host.script.render = gate = Gate(block=1, patience_s=PATIENCE_MS / 1000)
    page.speak(TWO_BLOCKS)
    page.player(state="playing", stream="open")
    page.page.keyboard.press("Escape")
    page.player(state="stopped")
    expect(page.page.locator("#stop")).to_be_disabled()
    host.wait_idle()
    gate.open()
    expect(page.page.locator("#position")).to_be_enabled()
    page.page.click("#play")
    page.passed("playing")
    assert page.page.locator("#history li").count() == 0


def test_what_is_chosen_is_what_is_asked_for(host: Served, visit: Open) -> None:
    page = visit()
    page.page.fill("#voice-search", "BO")
    assert page.page.locator("#voice option").all_inner_texts() == ["bob"]
    expect(page.page.locator("#voice-count")).to_have_text("1 of 2 voices")
    page.page.fill("#seed", "77")
    page.page.locator("#speed").fill("2")
    page.page.click("#options summary")
    page.page.fill("#option-num_steps", "7")
    page.page.select_option("#option-chunking_enabled", "false")
    with page.page.expect_request("**/v1/audio/speech") as asked:
        page.heard(TEXT)
    assert json.loads(asked.value.post_data or "") == {
        "model": "echo-tts",
        "input": TEXT,
        "voice": "bob",
        "response_format": "pcm",
        "seed": 77,
        "speed": 2,
        "num_steps": 7,
        "chunking_enabled": False,
        "sample_rate": 44100,
        "stream_format": "sse",
        "word_timestamps": True,
    }
    (utterance,) = host.script.spoken
    assert utterance.plan.blocks[0].steps == 7
    expect(page.page.locator("#used-seed")).to_have_text("77")
    page.page.click("#voice-preview")
    page.until(
        "document.getElementById('text').value !== '' && document.querySelectorAll('#words button').length === 6"
    )
    assert page.page.locator("#history li").count() == 1, "samples of voices are not kept"


def test_an_engine_has_its_own_options_and_voices(visit: Open, voices_dir: Path) -> None:
    options = (
        EngineOption(name="warmth", kind="number", least=0, most=1, default=0.5),
        EngineOption(name="style", kind="string", default="plain"),
        EngineOption(name="whisper", kind="boolean", default=False),
    )
    info = EngineInfo(
        name="other",
        preset_family="other",
        sample_rate=44_100,
        device="cpu",
        backend="fake",
        license="none",
        blocks=False,
        clones=False,
        voices=("nova",),
        options=options,
    )
    engine = FakeEngine(FakeScript(audio_s_per_char=BRISK), info)
    with serving(Settings(voices_dir=(str(voices_dir),)), lambda settings, gate: engine) as server:
        server.wait_ready()
        page = visit(server)
        assert page.page.locator("#voice option").all_inner_texts() == ["the server's default", "nova"]
        page.page.click("#options summary")
        assert page.page.locator("#option-fields label").all_inner_texts() == ["warmth", "style", "whisper"]
        expect(page.page.locator("#option-warmth")).to_have_attribute("placeholder", "0.5")
        page.page.select_option("#voice", "nova")
        page.page.fill("#option-warmth", "0.75")
        page.page.select_option("#option-whisper", "true")
        page.heard(TEXT)
        (utterance,) = engine.script.spoken
        assert utterance.options == {"warmth": 0.75, "whisper": True}
        page.page.fill("#option-warmth", "7")
        page.page.click("#options summary")
        page.page.click("#speak")
        expect(page.page.locator("#option-warmth")).to_be_focused()  # the browser says what is allowed
        page.page.click("#voice-preview")
        expect(page.page.locator("#error")).to_contain_text("warmth")


# -- errors


def test_errors_say_what_is_wrong_and_lose_nothing(host: Served, visit: Open) -> None:
    page = visit()
    alert = page.page.locator("#error")
    host.script.fail_before = True
    page.speak(TEXT)
    expect(alert).to_have_text("Generation failed.")
    page.player(state="error")
    expect(page.page.locator("#player")).to_be_hidden()
    host.script.fail_before, host.script.fail_after_blocks = False, 1
    page.speak(TWO_BLOCKS)
    expect(alert).to_have_text("Generation failed.")
    page.player(state="error")
    expect(page.page.locator("#position")).to_be_enabled()  # what has arrived can be listened to
    host.script.fail_after_blocks = None
    page.speak("x" * 5000)
    expect(alert).to_contain_text("4096")
    expect(page.page.locator("#text")).to_have_attribute("aria-invalid", "true")
    page.page.fill("#text", "")
    expect(alert).to_be_hidden()
    expect(page.page.locator("#text")).not_to_have_attribute("aria-invalid", "true")
    page.page.route("**/v1/audio/speech", lambda route: route.abort())
    page.speak(TEXT)
    expect(alert).to_have_text("The server cannot be reached.")
    page.page.unroute("**/v1/audio/speech")
    assert page.page.input_value("#text") == TEXT
    page.heard(TEXT)
    expect(alert).to_be_hidden()


def test_a_key_is_asked_for_and_kept_out_of_addresses_and_code(browser: Browser, visit: Open, voices_dir: Path) -> None:
    with serving(Settings(voices_dir=(str(voices_dir),), api_keys=("s3cret",))) as server:  # type: ignore[arg-type]
        page = visit(server)
        expect(page.page.locator("#error")).to_have_text("This server asks for an API key.")
        expect(page.page.locator("#key")).to_be_focused()
        expect(page.page.locator("#code")).to_contain_text("curl")
        page.page.keyboard.type("wrong")
        page.page.keyboard.press("Enter")
        expect(page.page.locator("#error")).to_have_text("The server does not accept this API key.")
        page.page.fill("#key", "")
        urls: list[str] = []
        page.page.on("request", lambda request: urls.append(request.url))
        page.page.keyboard.type("s3cret")
        page.page.keyboard.press("Tab")
        expect(page.page.locator("#voice option")).to_have_count(4)
        expect(page.page.locator("#error")).to_be_hidden()
        page.heard(TEXT)
        assert urls
        assert not [url for url in urls if "s3cret" in url]
        assert "$ECHO_API_KEY" in page.page.inner_text("#code")
        assert "s3cret" not in page.page.content()
        assert page.page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


# -- voices


def test_a_voice_is_made_of_a_recording(host: Served, visit: Open) -> None:
    page = visit()
    page.page.click("#clone summary")
    make = page.page.locator("#clone-make")
    page.page.click("#record")
    page.until("document.getElementById('level').value > 0.01")
    expect(page.page.locator("#clone-status")).to_have_text(re.compile(r"Recording: ([2-9]|\d\d) s"))
    page.page.click("#record")
    expect(page.page.locator("#clone-status")).to_contain_text("Listen to it")
    expect(page.page.locator("#clone-preview")).to_be_visible()
    page.until("document.getElementById('clone-preview').duration > 1.5")
    page.page.fill("#clone-name", "Mine")
    expect(make).to_be_disabled()
    page.page.check("#consent")
    make.click()
    expect(page.page.locator("#clone-status")).to_have_text("The voice Mine is ready and chosen.")
    assert page.page.input_value("#voice") == "default__Mine"
    (entry,) = httpx.get(host.url + "/v1/audio/voices").json()["uploaded_voices"]
    assert "has agreed" in entry["consent"]
    with page.page.expect_request("**/v1/audio/speech") as asked:
        page.heard(TEXT)
    assert json.loads(asked.value.post_data or "")["voice"] == "default__Mine"
    page.page.on("dialog", lambda dialog: dialog.accept())
    page.page.click("#voice-delete")
    expect(page.page.locator("#voice-count")).to_have_text("Mine has been deleted.")
    assert httpx.get(host.url + "/v1/audio/voices").json()["uploaded_voices"] == []


def test_a_file_that_is_no_recording_is_refused_where_it_is_chosen(visit: Open) -> None:
    page = visit()
    page.page.click("#clone summary")
    page.page.set_input_files("#clone-file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"no audio" * 100})
    expect(page.page.locator("#clone-error")).to_contain_text("cannot read")
    page.page.set_input_files("#clone-file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": tone(61)})
    expect(page.page.locator("#clone-status")).to_contain_text("The first 60 of 61 seconds")
    # What the server says is shown as well: a clip may be too short.
    page.page.set_input_files("#clone-file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": tone(0.05)})
    expect(page.page.locator("#clone-status")).to_contain_text("0.1 seconds")
    page.page.fill("#clone-name", "Short")
    page.page.check("#consent")
    page.page.click("#clone-make")
    expect(page.page.locator("#clone-error")).not_to_be_empty()


def test_where_no_voices_are_stored_a_recording_goes_with_the_request(server: Served, visit: Open) -> None:
    before = httpx.get(server.url + "/v1/audio/voices").json()
    server.script.audio_s_per_char = BRISK
    page = visit(server)
    page.page.click("#clone summary")
    expect(page.page.locator("#clone-off")).to_contain_text("ECHO_INWORLD_CLONE_ENABLED=1")
    page.page.set_input_files("#clone-file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": tone(2)})
    expect(page.page.locator("#clone-status")).to_contain_text("2.0 seconds")
    page.page.fill("#clone-name", "Mine")
    page.page.check("#consent")
    page.page.click("#clone-make")
    expect(page.page.locator("#clone-status")).to_have_text("The voice Mine is ready and chosen.")
    with page.page.expect_request("**/v1/audio/speech") as asked:
        page.heard(TEXT)
    sent = json.loads(asked.value.post_data or "")["voice"]
    assert base64.b64decode(sent, validate=True).startswith(b"RIFF")
    expect(page.page.locator("#history li")).to_contain_text("Mine")
    assert "<base64 of your clip>" in page.page.inner_text("#code")
    assert httpx.get(server.url + "/v1/audio/voices").json() == before


def tone(seconds: float) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        phase = 2 * np.pi * 200 / 16_000 * np.arange(int(seconds * 16_000))
        file.writeframes((8000 * np.sin(phase)).astype("<i2").tobytes())
    return target.getvalue()


# -- history


def test_the_history_is_kept_compared_saved_and_deleted(host: Served, visit: Open) -> None:
    page = visit()
    page.page.fill("#seed", "5")
    page.heard(TEXT)
    page.page.fill("#seed", "6")
    page.speak(TEXT)
    expect(page.page.locator("#history li")).to_have_count(2)
    page.page.reload()
    page.wait("body[data-ready]")
    rows = page.page.locator("#history li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("seed 6")
    file = download(page, lambda: rows.last.get_by_role("button", name="Audio").click())
    asked = {"input": TEXT, "seed": 5, "response_format": "pcm", "sample_rate": 44100}
    assert file[44:] == httpx.post(host.url + "/v1/audio/speech", json=asked).content
    captions = download(page, lambda: rows.last.get_by_role("button", name="SRT").click()).decode()
    assert captions.startswith("1\n00:00:00,0")
    assert "\nHello there.\n\n2\n" in captions
    assert "This is spoken.\n" in captions
    assert download(page, lambda: rows.last.get_by_role("button", name="VTT").click()).startswith(
        b"WEBVTT\n\n00:00:00.0"
    )
    page.page.select_option("#format", "flac")
    assert download(page, lambda: rows.last.get_by_role("button", name="Audio").click()).startswith(b"fLaC")
    rows.first.get_by_role("button", name="Compare as A").click()
    rows.last.get_by_role("button", name="Compare as B").click()
    shown = [rows.first.get_by_role("button", name=f"Compare as {side}") for side in "AB"]
    assert len({side.evaluate("(button) => getComputedStyle(button).backgroundColor") for side in shown}) == 2
    page.forget()
    page.page.click("#play-a")
    page.passed("playing")
    expect(page.page.locator("#used-seed")).to_have_text("6")
    page.page.click("#play-b")
    expect(page.page.locator("#used-seed")).to_have_text("5")
    expect(page.page.locator("#play-b")).to_have_attribute("aria-pressed", "true")
    rows.first.get_by_role("button", name="Play").click()
    expect(page.page.locator("#play-a")).to_have_attribute("aria-pressed", "true")
    expect(page.page.locator("#play-b")).to_have_attribute("aria-pressed", "false")
    rows.first.get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("seed 5")
    page.page.on("dialog", lambda dialog: dialog.accept())
    page.page.click("#clear")
    expect(page.page.locator("#history-empty")).to_be_visible()
    page.page.reload()
    expect(page.page.locator("#history-empty")).to_be_visible()


def download(page: Playground, click: Callable[[], None]) -> bytes:
    with page.page.expect_download() as started:
        click()
    return started.value.path().read_bytes()


# -- code


def test_the_request_as_code_does_what_the_page_does(
    host: Served, visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit()
    page.page.fill("#text", 'It\'s "quoted", $HOME and \\n; two\nlines.')
    page.page.fill("#seed", "9")
    page.page.click("#options summary")
    page.page.select_option("#option-early_stop_on_zero", "true")
    monkeypatch.chdir(tmp_path)
    results = []
    for language in ("curl", "python", "openai"):
        page.page.select_option("#language", language)
        page.page.click("#copy")
        expect(page.page.locator("#copied")).to_have_text("Copied.")
        code = page.page.evaluate("navigator.clipboard.readText()")
        if language == "curl":
            wrong = code.replace('"seed":9', '"seed":9.5')
            assert wrong != code
            assert subprocess.run(["sh", "-c", wrong], check=False, capture_output=True, timeout=60).returncode == 22
            subprocess.run(["sh", "-c", code], check=True, capture_output=True, timeout=60)
        else:
            exec(compile(code, language, "exec"), {})
        results.append((tmp_path / "speech.wav").read_bytes())
        (tmp_path / "speech.wav").unlink()
    assert results[0] == results[1] == results[2]
    assert results[0].startswith(b"RIFF")
    assert len({text for text in spoken(host)}) == 1


# -- everybody can use it


def test_everything_can_be_done_with_the_keyboard(host: Served, visit: Open) -> None:
    page = visit()
    keys = page.page.keyboard
    keys.press("Tab")
    expect(page.page.locator(".skip")).to_be_focused()
    keys.press("Enter")
    expect(page.page.locator("#text")).to_be_focused()
    keys.press("Control+A")
    keys.type("Hi. ")
    keys.insert_text(LONG)
    keys.press("Control+Enter")
    page.player(state="playing", stream="done")
    page.wait("#history li")
    visited = reach(page, "words")
    assert visited >= {"speak", "play", "position"}
    words = page.page.locator("#words button")
    expect(words.nth(0)).to_be_focused()
    keys.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    keys.press("End")
    keys.press("Enter")
    page.player(state="ended")
    expect(words.last).to_have_attribute("aria-current", "true")
    visited = reach(page, "history")
    assert visited >= {"voice-search", "voice", "voice-preview", "model", "preset", "seed", "speed", "format"}
    assert visited >= {"language", "copy", "code"}
    page.forget()
    keys.press("Enter")
    page.passed("playing")
    keys.press("Escape")
    page.passed("paused")


def reach(page: Playground, region: str) -> set[str]:
    """Press Tab until the focus is inside of a region; return the ids that had it on the way."""
    seen: set[str] = set()
    for _ in range(60):
        page.page.keyboard.press("Tab")
        focus = "document.activeElement"
        here = page.page.evaluate(f"[{focus}.id, {focus}.closest('#{region}') !== null]")
        if here[1]:
            return seen
        seen.add(here[0])
    raise AssertionError(f"Tab does not reach {region}: {seen}")


def test_it_is_accessible_light_and_dark_and_on_a_phone(visit: Open) -> None:
    page = visit()
    page.heard(TEXT)
    page.page.click("#speak")
    expect(page.page.locator("#history li")).to_have_count(2)
    page.player(state="ended")
    page.page.route("**/v1/audio/speech", lambda route: route.abort())
    page.page.click("#speak")
    page.player(state="error")
    page.page.locator("#history li").first.get_by_role("button", name="Play").click()
    page.player(state="ended")
    page.until("document.querySelector('#spectrogram canvas')?.width > 100")
    page.page.locator("#position").fill("0.3")
    page.picture("light")
    for details in ("clone", "options", "key-box"):
        page.page.click(f"#{details} summary")
    assert violations(page) == []
    page.picture("light-open")
    page.page.emulate_media(color_scheme="dark")
    page.picture("dark")
    page.page.set_viewport_size({"width": 360, "height": 740})
    assert violations(page) == []
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the page"
    page.picture("phone-dark")
    page.page.emulate_media(color_scheme="light")
    page.picture("phone")


def violations(page: Playground) -> list[str]:
    """What axe-core finds wrong, a line each."""
    before = len(page.faults)
    found = Axe().run(page.page, options={"resultTypes": ["violations"]}).response["violations"]
    del page.faults[before:]  # axe-core itself sets styles that the page's policy refuses
    return [f"{rule['id']}: {rule['help']}: {[node['html'] for node in rule['nodes']]}" for rule in found]


def test_the_operator_sees_how_the_server_is(host: Served, visit: Open) -> None:
    host.script.render = gate = Gate(patience_s=PATIENCE_MS / 1000)
    page = visit(path="/#server")
    figure = page.page.locator("#figures div")
    expect(figure.filter(has_text="State")).to_contain_text("healthy")
    expect(figure.filter(has_text="Device").first).to_contain_text("cpu")
    expect(figure.filter(has_text="Open streams")).to_contain_text("0")
    with host.send({"input": TEXT, "stream": True}, headers="Connection: close\r\n") as listener:
        expect(figure.filter(has_text="Open streams")).to_contain_text("1")
        gate.open()
        while listener.recv(2**16):  # to its end: a stream that is left is not one of those that are done
            pass
    host.wait_idle()
    expect(figure.filter(has_text="Open streams")).to_contain_text("0")
    expect(figure.filter(has_text="Requests done").locator("dd")).to_have_text(re.compile("[1-9]"))
    expect(figure.filter(has_text="First audio")).to_contain_text("up to")
    assert "NaN" not in page.page.inner_text("#figures")
    assert violations(page) == []
    page.picture("server")
    page.page.click("#to-speak")
    expect(page.page.locator("#text")).to_be_visible()


# -- the embedded model


def test_the_embedded_model_speaks_and_the_page_says_what_it_is(visit: Open) -> None:
    with serving(Settings(model_repo="tiny", device="cpu", cpu_threads=1), load_engine) as server:
        server.wait_ready()
        page = visit(server, viewport={"width": 1100, "height": 800})
        expect(page.page.locator("#preview-notice")).to_be_visible()
        page.page.select_option("#voice", "tiny_anna")
        page.heard("Hello there.")
        expect(page.page.locator("#method")).to_contain_text("attention")
        assert page.page.locator("#words button").all_inner_texts() == ["Hello", "there."]
        assert page.told("played-samples") * 2 == page.told("received-bytes")
        page.until("document.querySelector('#spectrogram canvas')?.width > 100")
        page.picture("embedded")
