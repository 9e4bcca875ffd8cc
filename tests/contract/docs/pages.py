"""The pages of docs/integrations, so that tests run exactly what they say.

A page is made of sections; what a reader copies is the code block or the settings table under a heading. Tests ask for
it by page and heading and aim it at their own server.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from echo.settings import Settings, load_settings, unknown_variables
from tests.contract.serving import Served

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docs" / "integrations"
#: Where the pages say that the server is: its default port, and the one that games expect an XTTS server on.
_SERVER = re.compile(r"\b127\.0\.0\.1:80[02]0\b")
_ROW = re.compile(r"\|\s*(?P<name>[^|]+?)\s*\|\s*(?P<value>[^|]+?)\s*\|$")
_TEST = re.compile(r"\(\.\./\.\./(tests/contract/[\w/]+\.py)\)")


@dataclass(slots=True)
class Section:
    """What stands under a heading: code blocks by language, and settings by name."""

    heading: str
    blocks: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """One page by its file name without the suffix."""

    name: str

    @property
    def text(self) -> str:
        return (FOLDER / f"{self.name}.md").read_text(encoding="utf-8")

    @property
    def tests(self) -> list[Path]:
        """The contract tests that the page names."""
        return [ROOT / path for path in _TEST.findall(self.text)]

    @property
    def sections(self) -> dict[str, Section]:
        """The sections that hold something to copy, by heading."""
        return {section.heading: section for section in _sections(self.text) if section.blocks or section.settings}

    def block(self, heading: str, language: str) -> str:
        """Return the code block of that language under a heading."""
        return self.sections[heading].blocks[language]

    def settings(self, heading: str) -> dict[str, str]:
        """Return the table under a heading, as text without backquotes."""
        return self.sections[heading].settings

    def server_settings(self, heading: str) -> Settings:
        """Return the settings of the server that is started under a heading; unknown names fail."""
        environ = environment(self.block(heading, "sh"))
        assert not unknown_variables(environ)
        return load_settings(environ)


def aimed(text: str, server: Served) -> str:
    """Replace the server's address in a text by that of a test's server."""
    return _SERVER.sub(f"127.0.0.1:{server.port}", text)


def environment(command: str) -> dict[str, str]:
    """Return the variables that stand before a command: ``NAME=value command``."""
    variables: dict[str, str] = {}
    for word in shlex.split(command):
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            break
        variables[name] = value
    return variables


def _sections(text: str) -> list[Section]:
    sections = [Section("")]
    language: str | None = None
    code: list[str] = []
    for line in text.splitlines():
        if language is not None and line == "```":
            assert language not in sections[-1].blocks, f"two {language} blocks under {sections[-1].heading!r}"
            sections[-1].blocks[language] = "\n".join([*code, ""])
            language = None
        elif language is not None:
            code.append(line)
        elif line.startswith("```"):
            language, code = line.removeprefix("```"), []
        elif line.startswith("#"):
            sections.append(Section(line.lstrip("# ")))
        elif row := _ROW.match(line):
            if row["value"].startswith("---"):
                sections[-1].settings.clear()  # what stood above the rule was the table's head
            else:
                sections[-1].settings[row["name"]] = row["value"].strip(" `")
    assert language is None, "a code block has no end"
    return sections
