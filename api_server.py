"""The server: one application of all wire formats, and its command line. ``python api_server.py --help``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections import ChainMap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from compat import inworld, xtts
from echo import __version__
from echo.errors import ConfigError
from echo.runtime import Runtime, Status
from echo.settings import Settings, describe, env_name, load_settings, warn_of_unknown
from echo.telemetry import set_up_log
from routes import models, ops, speech, voices
from routes.errors import ErrorShapes
from routes.json import JsonReader
from routes.middleware import surround
from routes.surface import Surface
from server.serve import configure, worth_a_line

log = logging.getLogger("echo.server")

#: The settings that have a flag too.
_FLAGS = dict(host="host", port="port", model="model_repo", device="device", preset="performance_preset")


def create_app(settings: Settings | None = None, runtime: Runtime | None = None) -> FastAPI:
    """Build the application; the runtime opens and closes with it. Without settings the environment's are read."""
    settings = settings or (runtime.settings if runtime else load_settings())
    runtime = runtime or Runtime(settings)
    surfaces = [speech.surface(settings), *(Surface(router=own.router) for own in (voices, models, ops))]
    if settings.inworld_compat:
        surfaces.append(inworld.surface(settings))
    if settings.xtts_compat:
        surfaces.append(xtts.surface(settings))
    refusals = runtime.metrics.refusals
    shapes = ErrorShapes(
        ChainMap(*(dict(surface.error_shapes) for surface in surfaces)),
        count=lambda status, reason: refusals.labels(str(status), reason).inc(),
    )
    limits = ChainMap(*(dict(surface.body_limits) for surface in surfaces))
    costly = frozenset(path for surface in surfaces for path in surface.costly)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runtime:
            yield

    app = FastAPI(
        title="Echo TTS Server",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers={HTTPException: shapes.handle, RequestValidationError: shapes.handle},
        middleware=surround(settings, runtime.metrics, shapes, limits, costly),
    )
    app.state.runtime = runtime
    app.state.created = int(time.time())
    app.state.json = JsonReader()
    for surface in surfaces:
        app.include_router(surface.router)
    return app


class _Server(uvicorn.Server):
    """Refuses new requests from the signal on; open streams get their grace."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._runtime.drain()
        super().handle_exit(sig, frame)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; returns the exit status."""
    parser = argparse.ArgumentParser(prog="api_server.py", description="Serve Echo-TTS over HTTP.")
    parser.add_argument("--version", action="version", version=__version__)
    for flag, field in _FLAGS.items():
        text = f"{Settings.model_fields[field].description} ({env_name(field)})"
        parser.add_argument(f"--{flag}", dest=field, metavar=flag.upper(), help=text.replace("%", "%%"))
    try:
        settings = load_settings(**vars(parser.parse_args(arguments)))
    except ConfigError as error:
        parser.exit(2, f"{error.message}\n")
    set_up_log(settings.log_format, debug=settings.debug_logs)
    warn_of_unknown()
    for line in describe(settings):
        log.info("%s", line)
    logging.getLogger("uvicorn.error").addFilter(worth_a_line)

    def stop() -> None:
        server.should_exit = True

    runtime = Runtime(settings, on_failure=stop)
    server = _Server(configure(create_app(settings, runtime), settings, runtime.metrics), runtime)
    try:
        server.run()
    except KeyboardInterrupt:
        if runtime.status is Status.CLOSING and runtime.info is None:
            # A thread is still loading and cannot be stopped; waiting for it could take as long as a download.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
    return 1 if runtime.failure is not None or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
