"""The pages of docs/integrations name their contract tests, and these use what the pages say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from echo.settings import Settings, env_name
from tests.contract.docs.pages import FOLDER, ROOT, Page, environment

PAGES = [Page(path.stem) for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"]
LANGUAGES = {"python", "javascript", "bash", "sh", "env", "yaml", "xml"}
_LINK = re.compile(r"\]\(([^)#:]+)\)")
_SETTING = re.compile(r"\bECHO_[A-Z_]+\b")

every_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def literals(path: Path) -> set[str]:
    """Return every string that is written in a test."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_index_lists_every_page_and_no_other() -> None:
    listed = set(_LINK.findall((FOLDER / "README.md").read_text(encoding="utf-8"))) - {"../settings.md"}
    assert listed == {f"{page.name}.md" for page in PAGES}


@every_page
def test_a_page_names_contract_tests_that_exist(page: Page) -> None:
    assert page.tests
    for path in page.tests:
        assert re.search(r"^(async )?def test_", path.read_text(encoding="utf-8"), re.MULTILINE)


@every_page
def test_the_tests_use_everything_that_can_be_copied(page: Page) -> None:
    folders = {path.parent for path in page.tests}
    used = set().union(*(literals(path) for folder in folders for path in folder.glob("*.py")))
    assert page.name in used
    assert set(page.sections) <= used


@every_page
def test_code_is_in_a_language_that_tests_can_use(page: Page) -> None:
    for section in page.sections.values():
        assert set(section.blocks) <= LANGUAGES
        for block in section.blocks.values():
            assert max(map(len, block.splitlines())) <= 120


@every_page
def test_a_server_is_started_with_settings_that_exist(page: Page) -> None:
    known = {env_name(field) for field in Settings.model_fields}
    for heading, section in page.sections.items():
        if "sh" in section.blocks:
            assert set(environment(section.blocks["sh"])) <= known
            assert section.blocks["sh"].split()[-2:] == ["python", "api_server.py"]
            page.server_settings(heading)
    assert set(_SETTING.findall(page.text)) <= known


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        target = (path.parent / link).resolve()
        assert target.is_relative_to(ROOT)
        assert target.exists(), link
