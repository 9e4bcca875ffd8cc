from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from echo.errors import LoadError
from echo.model.network.config import ECHO_TTS_BASE, DiTConfig


def test_round_trip() -> None:
    assert DiTConfig.from_dict(asdict(ECHO_TTS_BASE)) == ECHO_TTS_BASE
    assert ECHO_TTS_BASE.head_dim == 128


def test_unknown_keys_are_named() -> None:
    with pytest.raises(LoadError, match="unknown keys depth, width"):
        DiTConfig.from_dict(asdict(ECHO_TTS_BASE) | {"width": 1, "depth": 2})


def test_missing_keys_are_named() -> None:
    values = asdict(ECHO_TTS_BASE)
    del values["norm_eps"], values["adaln_rank"]
    with pytest.raises(LoadError, match="missing keys adaln_rank, norm_eps"):
        DiTConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "'num_layers' must be a positive"),
        ({"num_layers": "24"}, "'num_layers' must be a positive"),
        ({"num_layers": True}, "'num_layers' must be a positive"),
        ({"num_layers": 2.5}, "'num_layers' must be a positive"),
        ({"model_size": 2050}, "'model_size' must be an even multiple of 'num_heads'"),
        ({"speaker_model_size": 1290}, "'speaker_model_size'"),
        ({"num_heads": 1}, "'num_heads' must be at least 2"),
        ({"timestep_embed_size": 511}, "'timestep_embed_size' must be even"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        DiTConfig.from_dict(asdict(ECHO_TTS_BASE) | change)
