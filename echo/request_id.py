"""The id of a request: its client's own or a new one; in every answer, in the lines of the log, and in its trace."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

#: A client's own id is kept if it can break neither a header nor a log line.
_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

#: Id of the request that is being answered; empty outside of one. A request's tasks have it too.
current: ContextVar[str] = ContextVar("request_id", default="")


def request_id(given: str | None) -> str:
    """Return the id that a client gave its request, if it is well-formed, else a new one."""
    return given if given and _SANE_ID.fullmatch(given) else uuid.uuid4().hex
