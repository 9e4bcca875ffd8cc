"""The only dependency providers: what a route may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from echo.runtime import Runtime
from echo.service import SpeechService
from routes import client


async def get_runtime(connection: HTTPConnection) -> Runtime:
    """Return the runtime of the application that serves this request or socket."""
    runtime: Runtime = connection.app.state.runtime
    return runtime


async def get_service(connection: HTTPConnection) -> SpeechService:
    """Return the speech service; raises NotReady (503) until the engine is warm."""
    return (await get_runtime(connection)).service


def client_of(connection: HTTPConnection) -> str:
    """Return whose request this is, for fairness among clients."""
    return client.of(connection.scope)


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]
ServiceDep = Annotated[SpeechService, Depends(get_service)]
