"""Every operation of the API's description, called with data that fits it and data that does not."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from copy import deepcopy
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig

from tests.contract.schemathesis.bodies import OPENAPI
from tests.contract.serving import Served

#: Names that exist: without them hardly a generated call would get past the look-up of its voice.
KNOWN = {
    "voice": "anna",
    "voiceId": "anna",
    "voice_id": "anna",
    "speaker_wav": "anna",
    "model": "tts-1",
    "workspace": "default",
}

schema = schemathesis.openapi.from_dict(
    deepcopy(OPENAPI), config=SchemathesisConfig.from_dict({"phases": {"stateful": {"enabled": False}}})
)


@schema.parametrize()
@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_input_is_a_server_error(case: schemathesis.Case[Any], fuzzed: Served, session: requests.Session) -> None:
    case.call_and_validate(base_url=fuzzed.url, checks=[not_a_server_error], session=session)
    if any([name_what_exists(part) for part in (case.body, case.query, case.path_parameters)]):
        case.call_and_validate(base_url=fuzzed.url, checks=[not_a_server_error], session=session)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all calls."""
    with requests.Session() as opened:
        opened.trust_env = False  # proxies would be looked for before every call
        yield opened


def name_what_exists(part: Any) -> bool:
    """Put known names in place of made-up ones; returns whether there was one."""
    names = [name for name in KNOWN if isinstance(part, MutableMapping) and isinstance(part.get(name), str)]
    for name in names:
        part[name] = KNOWN[name]
    return bool(names)
