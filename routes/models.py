"""Lists of models: the engines, and the OpenAI names that the default one answers to."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from echo.errors import NotFound
from echo.runtime import Runtime
from echo.types import EngineOption
from routes.deps import RuntimeDep
from routes.errors import ERROR_RESPONSES

router = APIRouter(tags=["models"], responses=ERROR_RESPONSES)

#: Clients offer these by name or check that they exist.
_OPENAI_NAMES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
#: The engine's name while it is still loading.
_DEFAULT_NAME = "echo-tts"


@router.get("/v1/models")
async def list_models(request: Request, runtime: RuntimeDep) -> dict[str, Any]:
    """Every model name with what the engine behind it is and can do."""
    return {"object": "list", "data": [_model(request, runtime, name) for name in _names(runtime)]}


@router.get("/v1/models/{model:path}")
async def get_model(model: str, request: Request, runtime: RuntimeDep) -> dict[str, Any]:
    """One model by name."""
    if model not in _names(runtime):
        known = ", ".join(_names(runtime))
        raise NotFound(f"Unknown model; there are {known}.", code="model_not_found", param="model")
    return _model(request, runtime, model)


@router.get("/v1/audio/models")
async def list_audio_models(runtime: RuntimeDep) -> dict[str, Any]:
    """Model names in Open WebUI's form."""
    return {"models": [{"id": name} for name in _names(runtime)]}


def _names(runtime: Runtime) -> list[str]:
    engines = [info.name for info in runtime.infos]
    return list(dict.fromkeys((*(engines or [_DEFAULT_NAME]), _DEFAULT_NAME, *_OPENAI_NAMES)))


def _model(request: Request, runtime: Runtime, name: str) -> dict[str, Any]:
    model = {"id": name, "object": "model", "created": request.app.state.created, "owned_by": "echo-tts-server"}
    infos = runtime.infos
    info = next((info for info in infos if info.name == name), infos[0] if infos else None)
    if info is None:
        return {**model, "license": None}
    return {
        **model,
        "license": info.license,
        "sample_rate": info.sample_rate,
        "preview": info.preset_family == "tiny",
        "capabilities": {
            "clone": info.clones,
            "stream": info.streams,
            "emotions": sorted(info.emotions),
            "languages": list(info.languages),
            "engine_options": info.blocks,
            "options": {option.name: _option(option) for option in info.options},
        },
    }


def _option(option: EngineOption) -> dict[str, object]:
    bounds = {"minimum": option.least, "maximum": option.most}
    return {
        "type": option.kind,
        **{name: bound for name, bound in bounds.items() if bound is not None},
        "default": option.default,
    }
