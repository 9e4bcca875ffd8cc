"""Dependencies of routes, and the client a request is counted for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from echo.runtime import Runtime
from routes import client


async def get_runtime(connection: HTTPConnection) -> Runtime:
    """Return the runtime of the application that serves this request or socket."""
    runtime: Runtime = connection.app.state.runtime
    return runtime


def client_of(connection: HTTPConnection) -> str:
    """Return whose request this is, for fairness among clients."""
    return client.of(connection.scope)


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]
