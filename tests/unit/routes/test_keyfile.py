"""The file of API keys."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from echo.errors import ConfigError, Overloaded, Unauthorized
from echo.quota import Limits, Quotas
from echo.settings import Settings
from routes.keyfile import KeyFile, digest_of, parse_keys
from routes.keys import KeyRing, open_keys
from routes.scopes import KeyScope

FILE = """
[game]
key = "a-secret"
scopes = ["speak", "clone"]
streams = 4
requests_per_minute = 60
characters_per_minute = 20_000

["ops@example.org"]
sha256 = "{digest}"
scopes = ["admin", "metrics"]

[plain]
key = "schlüssel"
""".format(digest=hashlib.sha256(b"hidden").hexdigest().upper())


def test_a_table_is_a_key_with_its_name_scopes_and_limits() -> None:
    game, ops, plain = parse_keys(FILE)
    assert (game.name, game.digest) == ("game", digest_of(b"a-secret"))
    assert game.scopes == {KeyScope.SPEAK, KeyScope.CLONE}
    assert game.limits == Limits(streams=4, requests=60, characters=20_000)
    assert (ops.name, ops.digest, ops.limits) == ("ops@example.org", digest_of(b"hidden"), Limits())
    assert ops.scopes == {KeyScope.ADMIN, KeyScope.METRICS}
    assert plain.scopes == {KeyScope.SPEAK}
    assert game.digest.hex() not in repr(game)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\nkey = secret", ["line 2"]),
        ("[a]\nkey = 'secret'\n[a]\nkey = 'x'", ["line 3"]),
        ("[a]\nkey = 5", ["[a] key", "string"]),
        ("[a]\nscopes = ['speak']", ["[a]", "either key or sha256"]),
        ("[a]\nkey = 'secret'\nsha256 = '" + "0" * 64 + "'", ["[a]", "either key or sha256"]),
        ("[a]\nsha256 = 'secret'", ["[a] sha256"]),
        ("[a]\nkey = ' secret'", ["[a] key", "blanks"]),
        ("[a]\nkey = ''", ["[a] key"]),
        ("[a]\nkey = 'secret'\nscopes = ['sing']", ["[a] scopes.0", "'speak', 'clone', 'admin' or 'metrics'"]),
        ("[a]\nkey = 'secret'\nstreams = 0", ["[a] streams", "greater than or equal to 1"]),
        ("[a]\nkey = 'secret'\nrequests_per_minute = '60'", ["[a] requests_per_minute", "integer"]),
        ("[a]\nkey = 'secret'\nrequests_per_minutes = 60", ["[a] requests_per_minutes", "no such field", "streams"]),
        ("key = 'secret'", ["[key]", "table"]),
        ("a = " + "[" * 50_000, ["nested"]),
        ('[a]\nkey = "secret\\n"', ["[a] key", "blanks"]),
        ('[a]\nkey = "se\\u0007cret"', ["[a] key", "control"]),
        ("[a]\nkey = 'secret'\nscopes = []", ["[a] scopes", "at least 1"]),
        ("['a b']\nkey = 'secret'", ["'a b'", "name"]),
        ("['a\\nb']\nkey = 'secret'", ["name"]),
        ("['a#1']\nkey = 'secret'", ["name"]),
        ("[a]\nkey = 'secret'\n[b]\nkey = 'secret'", ["[b]", "[a]"]),
    ],
)
def test_what_is_wrong_is_told_by_line_or_field_and_never_the_key(text: str, told: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_keys(text)
    message = str(refused.value)
    assert "\n" not in message
    assert "secret" not in message
    for part in told:
        assert part in message


def test_a_key_without_limits_does_not_hide_one_with_limits(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    replaced(path, "[game]\nkey = 'one'\nstreams = 1")
    settings = Settings(api_keys=("zero", "one"), keys_file=path)
    with pytest.raises(ConfigError, match=r"\[game\] has the same key as ECHO_API_KEYS#2"):
        open_keys(settings, Quotas())


def test_no_key_at_all_is_a_file_too() -> None:
    assert parse_keys("# nobody\n") == []


def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    for content in (None, b"\xff\xfe", b"[a]\nkey = 1", b"#" * (2**20 + 1)):
        path = tmp_path / "keys.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"^ECHO_KEYS_FILE=.*keys\.toml: "):
            KeyFile(path)


def replaced(path: Path, text: str) -> None:
    """Put a new file in the old one's place, as one should."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def opened(path: Path, quotas: Quotas | None = None) -> KeyRing:
    return KeyRing((), KeyFile(path), quotas)


async def test_a_change_takes_effect_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    replaced(path, "[a]\nkey = 'one'\nrequests_per_minute = 1")
    quotas = Quotas()
    ring = opened(path, quotas)
    assert ring.accepted([b"one"], "here").name == "a"
    quotas.spend("key a", requests=1)
    replaced(path, "[a]\nkey = 'two'\nrequests_per_minute = 1")
    await ring.refresh()
    with pytest.raises(Unauthorized):
        ring.accepted([b"one"], "here")
    assert ring.accepted([b"two"], "here").name == "a"
    with pytest.raises(Overloaded):  # a new key of the same name does not begin a new minute
        quotas.spend("key a", requests=1)
    replaced(path, "")
    await ring.refresh()
    assert ring  # still asks for keys, although there are none
    with pytest.raises(Unauthorized):
        ring.accepted([b"two"], "here")


async def test_a_broken_file_leaves_the_keys_and_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.toml"
    replaced(path, "[a]\nkey = 'one'")
    ring = opened(path)
    replaced(path, "[a]\nkey = 'two'\nstreams = 'secret'")
    for _ in range(3):
        await ring.refresh()
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "[a] streams" in line
    assert "secret" not in line
    assert "two" not in line
    assert ring.accepted([b"one"], "here").name == "a"
    caplog.clear()
    path.unlink()
    for _ in range(3):
        await ring.refresh()
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "cannot be read" in line
    assert ring.accepted([b"one"], "here").name == "a"
    replaced(path, "[b]\nkey = 'three'")
    await ring.refresh()
    assert ring.accepted([b"three"], "here").name == "b"


async def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    replaced(path, "[a]\nkey = 'one'")
    file = KeyFile(path)
    before = file.keys
    file.look()
    assert file.keys is before


def test_keys_beyond_ascii_come_in_utf_8_or_latin_1(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    replaced(path, "[a]\nkey = 'schlüssel'")
    for given in ("schlüssel".encode(), "schlüssel".encode("latin-1")):
        assert opened(path).accepted([given], "here").name == "a"
