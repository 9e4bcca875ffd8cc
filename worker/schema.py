"""A job's ``input`` -> Job: which schema it is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echo.emotion import FIELDS
from echo.errors import BadRequest
from worker.echo_job import echo_job
from worker.index_job import INDEX_FIELDS, INDEX_ONLY, index_job
from worker.job import Job

HEALTH_CHECK = "health_check"
#: The engine whose jobs are Echo jobs where nothing in them tells.
_ECHO = "echo"


def is_health_check(data: object) -> bool:
    """Tell whether a job asks for the worker's health; raises BadRequest for what is no job, or another action."""
    if not isinstance(data, Mapping):
        raise BadRequest("input must be an object.", param="input")
    action = data.get("action")
    if action not in (None, "", HEALTH_CHECK):
        raise BadRequest(f"action must be {HEALTH_CHECK}, or absent.", param="action")
    return action == HEALTH_CHECK


def parse_job(data: Mapping[str, Any], engine: str, max_chars: int) -> Job:
    """Read a job; raises BadRequest that names the field and what is allowed.

    Fields of IndexTTS at the top level make it an IndexTTS job, ``parameters`` an Echo job if none of these fields are
    IndexTTS's alone; where nothing tells, the configured ``engine`` does. A text may have ``max_chars`` characters.
    """
    text = data.get("text")
    if isinstance(text, str) and len(text.strip()) > max_chars:
        raise BadRequest(f"text must be at most {max_chars} characters; it has {len(text.strip())}.", param="text")
    parameters = data.get("parameters")
    inner = parameters if isinstance(parameters, Mapping) else {}
    telling = INDEX_FIELDS if parameters is None else INDEX_ONLY
    tells = any(data.get(name) is not None for name in telling)
    # An emotion is never ignored, wherever it stands.
    tells = tells or any(inner.get(name) is not None for name in FIELDS.values())
    if tells or (parameters is None and engine != _ECHO):
        return index_job({**inner, **{name: value for name, value in data.items() if name != "parameters"}})
    return echo_job(data)
