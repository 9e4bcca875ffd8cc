"""Lists of models: the engine, and the OpenAI names that it answers to."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from echo.errors import NotFound
from echo.runtime import Runtime
from routes.deps import RuntimeDep
from routes.errors import ERROR_RESPONSES

router = APIRouter(tags=["models"], responses=ERROR_RESPONSES)

#: Clients offer these by name or check that they exist.
_OPENAI_NAMES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
#: The engine's name while it is still loading.
_DEFAULT_NAME = "echo-tts"


@router.get("/v1/models")
async def list_models(request: Request, runtime: RuntimeDep) -> dict[str, Any]:
    """Every model name with the licence of the weights behind it."""
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
    engine = runtime.info.name if runtime.info is not None else _DEFAULT_NAME
    return list(dict.fromkeys((engine, _DEFAULT_NAME, *_OPENAI_NAMES)))


def _model(request: Request, runtime: Runtime, name: str) -> dict[str, Any]:
    info = runtime.info
    return {
        "id": name,
        "object": "model",
        "created": request.app.state.created,
        "owned_by": "echo-tts-server",
        "license": info.license if info is not None else None,
    }
