"""For operators and load balancers: health, readiness, metrics, and a card or a page at the root."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from echo import __version__
from echo.runtime import Runtime, Status
from routes import playground
from routes.deps import RuntimeDep
from routes.scopes import KeyScope
from routes.surface import Surface

router = APIRouter(tags=["operation"])

_CARD: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Name, version and links; for a browser, which accepts text/html, the playground.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/html": {"schema": {"type": "string"}}},
    }
}


def surface() -> Surface:
    """Return the routes; the metrics need a key of their scope."""
    return Surface(router=router, scopes={"/metrics": KeyScope.METRICS})


@router.get("/", response_model=None, responses=_CARD)
async def root(request: Request, runtime: RuntimeDep) -> dict[str, Any] | Response:
    """What this is and where to go on; answers at once, because clients probe it before they speak.

    A browser gets the playground.
    """
    if runtime.settings.playground and playground.wants_page(request):
        return playground.page(runtime.settings)
    return {
        "name": "Echo TTS Server",
        "version": __version__,
        "docs": "/docs",
        "links": {
            "speech": "/v1/audio/speech",
            "voices": "/v1/voices",
            "models": "/v1/models",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
        },
    }


@router.get("/health", responses={503: {"description": "The device has stopped; only a new process helps."}})
async def health(runtime: RuntimeDep) -> Response:
    """The process is up: 200 at once, while the model is still loading too; 503 when the device has stopped."""
    info = runtime.info
    cache = runtime.cache.stats()
    card = {
        "status": _status(runtime),
        "model_loaded": runtime.is_ready,
        "device": info.device if info is not None else None,
        "backend": info.backend if info is not None else None,
        "cached_voices": cache.entries,
        "cached_paths": cache.paths,
        "version": __version__,
        "presets": runtime.preset_names,
        "engines": runtime.engine_states,
    }
    return JSONResponse(card, 503 if runtime.is_dead else 200)


@router.get("/ready", responses={503: {"description": "Loading, failed, restarting, stopped or shutting down."}})
async def ready(runtime: RuntimeDep) -> Response:
    """The engine is warm: 200, else 503, for load balancers."""
    if runtime.is_ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": _status(runtime)}, 503, headers={"Retry-After": "5"})


@router.get("/metrics", response_class=Response)
async def metrics(runtime: RuntimeDep) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(runtime.metrics.render(), headers={"Content-Type": runtime.metrics.content_type})


def _status(runtime: Runtime) -> str:
    if runtime.status is Status.READY and runtime.drain.begun and not runtime.is_dead:
        return "draining"
    if runtime.status is Status.READY:
        return "healthy" if runtime.is_ready else Status.STOPPED.value if runtime.is_dead else "restarting"
    return runtime.status.value
