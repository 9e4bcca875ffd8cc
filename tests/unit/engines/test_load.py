"""Settings -> engine, with a model that is already in memory."""

from __future__ import annotations

import torch

from echo.engines.load import load_engine
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
