"""The heads that follow the text: shipped, found for a model that comes without, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from echo.engines.heads import TextHeads
from echo.engines.load import load_engine, load_weights
from echo.model.alignment import choose
from echo.model.files.heads import HEADS_FILE, fingerprint, read_heads, write_heads
from echo.model.files.hub import locate
from echo.settings import Settings, load_settings
from echo.sources import TINY_MODEL
from echo.text.tokenize import encode_sentence
from tests.processes import eventually
from tests.unit.small_echo import DIT, small_dit
from tests.unit.timing.told import attend

SHIPPED = locate(TINY_MODEL).dit


def without_heads(folder: Path) -> Path:
    """A folder with the embedded model, but for the file of its heads."""
    model = folder / "model"
    model.mkdir()
    for path in SHIPPED.parent.iterdir():
        if path.name != HEADS_FILE:
            (model / path.name).symlink_to(path)
    return model


def settings(model: str, cache: Path) -> Settings:
    return load_settings({}, model_repo=model, device="cpu", cache_dir=cache)


def test_the_embedded_model_brings_its_heads(tmp_path: Path) -> None:
    loaded = load_weights(settings(TINY_MODEL, tmp_path))
    heads = TextHeads(loaded.dit, loaded.weights, tmp_path, encode_sentence)
    assert not heads.unknown
    assert len(loaded.dit.watched) == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_without_them_has_them_found_in_the_background_and_kept(tmp_path: Path) -> None:
    model = without_heads(tmp_path)
    wanted = settings(str(model), tmp_path / "cache")
    engine = load_engine(wanted, None)
    try:
        engine.finish_warm_up()  # does not wait for them
        eventually(lambda: any((tmp_path / "cache").rglob("alignment-*.json")), "the heads are kept")
    finally:
        engine.close()
    (kept,) = (tmp_path / "cache").rglob("alignment-*.json")
    loaded = load_weights(wanted)
    heads = TextHeads(loaded.dit, loaded.weights, kept.parent, encode_sentence)
    assert not heads.unknown
    # The two layers whose attention was taught.
    assert {layer for layer, _ in loaded.dit.watched} <= {2, 4}
    assert min(json.loads(kept.read_text())["shares"]) > 0.8


def test_a_model_that_is_from_no_file_has_none() -> None:
    dit = small_dit()
    heads = TextHeads(dit, None, Path("nowhere"), encode_sentence)
    assert not heads.unknown
    assert dit.watched == ()


def test_a_search_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"abc")

    def unreadable(text: str) -> list[int]:
        raise RuntimeError("no such tokenizer")

    heads = TextHeads(small_dit(), weights, tmp_path, unreadable)
    assert heads.unknown
    assert list(heads.find()) == []
    assert "cannot be found" in caplog.text
    assert not heads.unknown


def test_heads_that_do_not_follow_are_not_chosen() -> None:
    rng = np.random.default_rng(0)
    truth = np.linspace(7, 29, 60)

    def look() -> np.ndarray:
        follows = attend(truth, 30)
        late = attend(np.maximum(7, truth - 12), 30)
        still = attend(np.full(60, 12.0), 30)
        anywhere = rng.dirichlet(np.ones(30), 60).astype(np.float32)
        blurred = 0.6 * follows + 0.4 / 30
        return np.stack([anywhere, still, blurred, follows, late]).astype(np.float32)

    heads = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    found = choose(heads, [look(), look()], 7)
    assert found.heads == ((1, 1), (1, 0))
    assert found.shares[0] > found.shares[1] > 0.35
    only = choose(heads[:2], [look()[:2], look()[:2]], 7)
    assert only.heads == ()


def test_a_file_counts_only_for_its_weights_and_shapes(tmp_path: Path) -> None:
    weights, other = tmp_path / "a", tmp_path / "b"
    weights.write_bytes(bytes(range(256)) * 1000)
    other.write_bytes(bytes(range(255, -1, -1)) * 1000)
    assert fingerprint(weights) != fingerprint(other)
    path = tmp_path / HEADS_FILE
    missing = tmp_path / "missing.json"
    write_heads(path, fingerprint(weights), ((1, 0),), (0.9,))
    assert read_heads([missing, path], fingerprint(weights), DIT) == ((1, 0),)
    assert read_heads([path], fingerprint(other), DIT) is None
    write_heads(path, fingerprint(weights), ((7, 0),), (0.9,))
    assert read_heads([path], fingerprint(weights), DIT) is None
    write_heads(path, fingerprint(weights), (), ())
    assert read_heads([path], fingerprint(weights), DIT) == ()
    for damaged in ("", "[]", '{"heads": 3, "weights": ""}', '{"weights": "x"}'):
        path.write_text(damaged)
        assert read_heads([path], fingerprint(weights), DIT) is None


def test_the_shipped_file_is_for_the_shipped_weights() -> None:
    record = json.loads((SHIPPED.parent / HEADS_FILE).read_text())
    assert record["weights"] == fingerprint(SHIPPED)
