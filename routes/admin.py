"""For whoever runs the server: let go of the clients before the process is ended."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routes.deps import RuntimeDep
from routes.errors import ERROR_RESPONSES
from routes.response import until_disconnect
from routes.scopes import KeyScope
from routes.surface import Surface

#: What is below needs a key of scope admin, or comes from this machine.
PREFIX = "/admin"

router = APIRouter(tags=["operation"], responses=ERROR_RESPONSES)


def surface() -> Surface:
    """Return the routes."""
    return Surface(router=router, scopes={PREFIX: KeyScope.ADMIN}, ongoing=(PREFIX,))


@router.post(PREFIX + "/drain")
async def drain(request: Request, runtime: RuntimeDep, wait: bool = True) -> Response:
    """Take no new work, and answer when what was open has ended or its grace is over; with ``wait=false`` at once.

    For a hook before the stop signal, which then ends the process at once. May be called any number of times.
    """
    drain = runtime.drain
    if wait:
        await until_disconnect(request, drain.finish())
    else:
        drain.start()
        await asyncio.sleep(0)  # where there is nothing to wait for, it has begun to refuse
    still_open = drain.open_requests
    status = "drained" if drain.refusing and not still_open else "draining"
    return JSONResponse({"status": status, "open_streams": still_open}, 200 if status == "drained" else 202)
