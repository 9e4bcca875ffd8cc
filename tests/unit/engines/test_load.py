"""Settings -> engine, with a model that is already in memory."""

from __future__ import annotations

import pytest
import torch

from echo.engines.load import load_engine, pick_device
from echo.errors import ConfigError
from echo.model.files.weights import LoadedEcho, random_echo
from echo.settings import load_settings


def test_engine_is_built_around_the_model_it_is_given() -> None:
    settings = load_settings({}, model_repo="not/downloaded", device="cpu", model_dtype="float32")
    tiny = random_echo("tiny", dtype=torch.float32)
    loaded = LoadedEcho(tiny.dit, tiny.autoencoder, tiny.pca, {**tiny.config, "engine": {"name": "made-here"}})
    engine = load_engine(settings, None, loaded)
    try:
        assert engine.info.name == "made-here"
        assert engine.info.num_layers == tiny.dit.config.num_layers
    finally:
        engine.close()


def test_a_device_that_is_not_there_is_refused_with_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1", "ECHO_DEVICE") == torch.device("cuda:1")
    assert pick_device("auto", "ECHO_DEVICE") == torch.device("cuda")
    with pytest.raises(ConfigError, match="ECHO_FISH_DEVICE=cuda:2: this machine has no such device"):
        pick_device("cuda:2", "ECHO_FISH_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="ECHO_DEVICE=cuda: "):
        pick_device("cuda", "ECHO_DEVICE")
