"""Debian's chromium, headless, and the playground in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.contract.serving import Served, wait_until

#: Milliseconds; longer than anything takes on a slow machine. Only a failing test waits for it.
PATIENCE_MS = 30_000
#: Screenshots, kept for people to look at.
PICTURES = Path(__file__).resolve().parents[3] / "artifacts" / "playground"

_FLAGS = [
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",  # and that nobody has to allow
    "--autoplay-policy=no-user-gesture-required",
]

#: Notes every state that the player has been in, also those that pass between two looks.
_WATCH = """
const states = (window.playerStates = []);
new MutationObserver((changes) => {
  for (const { target } of changes) if (states.at(-1) !== target.dataset.state) states.push(target.dataset.state);
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
"""


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Start the system's browser."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is not installed: `make packages`")
    # Its sandbox needs a user other than root.
    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


class Playground:
    """The page in a context of its own: nothing of earlier tests is in its storage.

    What goes wrong in it (exceptions, refused loads, errors on the console) is collected in ``faults``; so is every
    request to another server.
    """

    def __init__(self, page: Page, server: Served) -> None:
        self.page = page
        self.server = server
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(_WATCH)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._said)
        page.on("request", self._asked)

    def open(self, path: str = "/") -> None:
        self.page.goto(self.server.url + path)
        self.wait("body[data-ready]")

    def wait(self, selector: str) -> None:
        self.page.locator(selector).wait_for(state="attached")

    def player(self, **data: str) -> None:
        """Wait until the player tells of itself what is given."""
        self.wait("#player" + "".join(f'[data-{name.replace("_", "-")}="{value}"]' for name, value in data.items()))

    def forget(self) -> None:
        """Let ``passed`` look at what follows only."""
        self.page.evaluate("window.playerStates.length = 0")

    def passed(self, state: str) -> None:
        """Wait until the player has been in a state, though it may have left it."""
        self.until(f"window.playerStates.includes('{state}')")

    def told(self, name: str) -> int:
        """One of the player's counters."""
        return int(self.page.locator("#player").get_attribute(f"data-{name}") or 0)

    def until(self, expression: str) -> None:
        """Wait until an expression in JavaScript is true; Playwright's own way is against the page's policy."""
        wait_until(lambda: self._holds(expression), PATIENCE_MS / 1000)

    def _holds(self, expression: str) -> bool:
        self.page.wait_for_timeout(20)
        return bool(self.page.evaluate(expression))

    def speak(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.click("#speak")

    def heard(self, text: str) -> None:
        """Speak, and listen to the end."""
        self.speak(text)
        self.player(state="ended", stream="done")
        self.wait("#history li")

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)

    def _said(self, message: ConsoleMessage) -> None:
        # A refused request is on the console too, and the tests of errors refuse some.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def _asked(self, request: Request) -> None:
        if not re.match(rf"(blob:|data:)?{re.escape(self.server.url)}/|data:", request.url):
            self.faults.append(f"asked {request.url}")


@contextmanager
def playground(browser: Browser, server: Served, **context: Any) -> Iterator[Playground]:
    """Open the page in a fresh context; afterwards nothing must have gone wrong in it."""
    opened = browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"], **context)
    try:
        page = Playground(opened.new_page(), server)
        yield page
        assert not page.faults, page.faults
    finally:
        opened.close()
