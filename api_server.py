"""The server: one application of all wire formats, and its command line. ``python api_server.py --help``."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections import ChainMap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from compat import chatterbox, deepgram, elevenlabs, inworld, omni, twilio, xtts
from echo import __version__
from echo.errors import ConfigError
from echo.runtime import Runtime, Status
from echo.settings import Settings, describe, env_name, load_settings, warn_of_unknown
from echo.telemetry import set_up_log
from routes import jobs, models, ops, playground, speech, voices
from routes.errors import ErrorShapes
from routes.json import JsonReader
from routes.middleware import middleware_stack
from routes.surface import Surface
from server.serve import configure, worth_a_line

log = logging.getLogger("echo.server")

#: Exit status when the device has died or hangs (EX_SOFTWARE of sysexits.h), for the service manager's eyes.
DEVICE_STOPPED = 70
#: Seconds after the grace of open streams in which the device is freed; then the process is ended by force.
_FREEING_S = 10.0

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
    surfaces = [
        speech.surface(settings),
        jobs.surface(settings),
        *(Surface(router=own.router) for own in (voices, models, ops)),
        *more,
    ]
    if settings.playground:
        surfaces.append(playground.surface(settings))
    if settings.inworld_compat:
        surfaces.append(inworld.surface(settings))
    if settings.omni_compat:
        surfaces.append(omni.surface(settings))
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
        middleware=middleware_stack(settings, runtime.metrics, shapes, limits, costly, late_keys, messages),
    )
    app.state.runtime = runtime
    app.state.created = int(time.time())
    app.state.json = JsonReader()
    for surface in surfaces:
        app.include_router(surface.router)
    return app


class _Server(uvicorn.Server):
    """Refuses new requests from the signal on; open streams get their grace, and the process ends in any case."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._last = threading.Timer(runtime.settings.shutdown_grace_s + _FREEING_S, _end_now)
        self._last.daemon = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._runtime.drain()
        self._set_deadline()
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Shut down as after a signal."""
        self.should_exit = True
        self._set_deadline()

    def _set_deadline(self) -> None:
        with contextlib.suppress(RuntimeError):  # a second signal finds it started
            self._last.start()


def _end_now() -> None:
    """End the process whatever its other threads are at: those that hang would be waited for otherwise."""
    log.critical("the server has not ended in its time; ending the process")
    logging.shutdown()
    os._exit(DEVICE_STOPPED)


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
    except ConfigError as error:
        parser.exit(2, f"{error.message}\n")
    faulthandler.enable()  # a crash in a library leaves a trace of where it was
    set_up_log(settings.log_format, debug=settings.debug_logs)
    warn_of_unknown()
    for line in describe(settings):
        log.info("%s", line)
    return serve(runtime)


def serve(runtime: Runtime) -> int:
    """Serve a runtime until a signal, or until it fails; returns the exit status.

    When the device has stopped, the process ends here: threads that hang would keep it.
    """
    logging.getLogger("uvicorn.error").addFilter(worth_a_line)
    settings = runtime.settings
    server = _Server(configure(create_app(settings, runtime), settings, runtime.metrics), runtime)
    runtime.on_failure(server.stop)
    try:
        server.run()
    except KeyboardInterrupt:
        if runtime.status is Status.CLOSING and runtime.info is None:
            # A thread is still loading and cannot be stopped; waiting for it could take as long as a download.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
    if runtime.status is Status.STOPPED:
        logging.shutdown()
        os._exit(DEVICE_STOPPED)
    return 1 if runtime.failure is not None or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
