"""The server: one application of all wire formats, and its command line. ``python api_server.py --help``."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import signal
import sys
import time
from collections import ChainMap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from compat import chatterbox, deepgram, elevenlabs, inworld, kokoro, omni, twilio, xtts
from echo import __version__
from echo.errors import ConfigError
from echo.runtime import Runtime, Status
from echo.settings import Settings, describe, env_name, load_settings, warn_of_unknown
from echo.telemetry import set_up_log
from routes import admin, jobs, models, ops, playground, speech, voices
from routes.errors import ErrorShapes
from routes.json import JsonReader
from routes.keys import open_keys
from routes.middleware import middleware_stack
from routes.scopes import ScopeRules
from routes.surface import Surface
from server.memory import give_back
from server.serve import configure, worth_a_line
from server.stop import DEVICE_STOPPED, Server

log = logging.getLogger("echo.server")

#: The settings that have a flag too.
_FLAGS = dict(host="host", port="port", model="model_repo", device="device", preset="performance_preset")


def create_app(
    settings: Settings | None = None, runtime: Runtime | None = None, more: Sequence[Surface] = ()
) -> FastAPI:
    """Build the application; the runtime opens and closes with it.

    Without settings the environment's are read. ``more`` are wire formats beside the server's own.
    """
    settings = settings or (runtime.settings if runtime else load_settings())
    runtime = runtime or Runtime(settings)
    lists = [Surface(router=own.router) for own in (voices, models)]
    surfaces = [speech.surface(settings), jobs.surface(settings), *lists, ops.surface(), admin.surface(), *more]
    if settings.playground:
        surfaces.append(playground.surface())
    if settings.inworld_compat:
        surfaces.append(inworld.surface(settings))
    if settings.omni_compat:
        surfaces.append(omni.surface(settings))
    if settings.kokoro_compat:
        surfaces.append(kokoro.surface(settings))
    if settings.deepgram_compat:
        surfaces.append(deepgram.surface(settings))
    if settings.xtts_compat:
        surfaces.append(xtts.surface(settings))
    if settings.elevenlabs_compat:
        surfaces.append(elevenlabs.surface(settings))
    if settings.chatterbox_compat:
        surfaces.append(chatterbox.surface(settings))
    if settings.twilio_compat:
        surfaces.append(twilio.surface(settings))
    refusals = runtime.metrics.refusals
    shapes = ErrorShapes(
        ChainMap(*(dict(surface.error_shapes) for surface in surfaces)),
        count=lambda status, reason: refusals.labels(str(status), reason).inc(),
    )
    limits = ChainMap(*(dict(surface.body_limits) for surface in surfaces))
    messages = ChainMap(*(dict(surface.message_limits) for surface in surfaces))
    costly = frozenset(path for surface in surfaces for path in surface.costly)
    late_keys = frozenset(path for surface in surfaces for path in surface.late_keys)
    ongoing = frozenset(path for surface in surfaces for path in surface.ongoing)
    keys = open_keys(settings, runtime.quotas)
    scopes = ChainMap(*(dict(surface.scopes) for surface in surfaces))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runtime:
            tasks = [asyncio.create_task(keys.watch()), asyncio.create_task(give_back())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    app = FastAPI(
        title="Echo TTS Server",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        # FastAPI's own spans would hold queries, where some clients have their text and their key.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={HTTPException: shapes.handle, RequestValidationError: shapes.handle},
        middleware=middleware_stack(
            settings,
            runtime.metrics,
            shapes,
            limits,
            costly,
            late_keys,
            messages,
            keys=keys,
            rules=ScopeRules(scopes, costly),
            quotas=runtime.quotas,
            drain=runtime.drain,
            ongoing=ongoing,
            tracing=runtime.tracing,
        ),
    )
    app.state.runtime = runtime
    app.state.created = int(time.time())
    app.state.json = JsonReader()
    for surface in surfaces:
        app.include_router(surface.router)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; returns the exit status."""
    parser = argparse.ArgumentParser(prog="api_server.py", description="Serve Echo-TTS over HTTP.")
    parser.add_argument("--version", action="version", version=__version__)
    for flag, field in _FLAGS.items():
        text = f"{Settings.model_fields[field].description} ({env_name(field)})"
        parser.add_argument(f"--{flag}", dest=field, metavar=flag.upper(), help=text.replace("%", "%%"))
    try:
        settings = load_settings(**vars(parser.parse_args(arguments)))
        runtime = Runtime(settings)
        app = create_app(settings, runtime)
    except ConfigError as error:
        parser.exit(2, f"{error.message}\n")
    faulthandler.enable()  # a crash in a library leaves a trace of where it was
    set_up_log(settings.log_format, debug=settings.debug_logs)
    warn_of_unknown()
    for line in describe(settings):
        log.info("%s", line)
    return serve(runtime, app)


def serve(runtime: Runtime, app: FastAPI | None = None) -> int:
    """Serve a runtime until a signal, or until it fails; returns the exit status. ``app`` is its application, if made.

    When the device has stopped, the process ends here: threads that hang would keep it.
    """
    logging.getLogger("uvicorn.error").addFilter(worth_a_line)
    settings = runtime.settings
    config = configure(app or create_app(settings, runtime), settings, runtime.metrics)
    server = Server(config, runtime.drain, settings.drain_s + settings.shutdown_grace_s)
    runtime.on_failure(server.stop)
    interrupted = False
    try:
        server.run()
    except SystemExit:
        return 1  # uvicorn's, which has said why: the address is taken or cannot be used
    except KeyboardInterrupt:
        interrupted = True
    if runtime.status is Status.CLOSING and runtime.info is None and runtime.failure is None:
        # A thread is still loading and cannot be stopped; waiting for it could take as long as a download.
        logging.shutdown()
        if interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        os._exit(0)
    if runtime.status is Status.STOPPED:
        logging.shutdown()
        os._exit(DEVICE_STOPPED)
    return 1 if runtime.failure is not None or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
