"""What an API key may do, and which of it a request needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

from starlette import types

from routes.paths import costs, longest_prefix


class KeyScope(StrEnum):
    """What a key may do."""

    SPEAK = "speak"
    #: Make, change and delete voices.
    CLONE = "clone"
    ADMIN = "admin"
    METRICS = "metrics"


#: Health checks and clients that look whether anybody is there carry no key.
_OPEN = frozenset({"/", "/health", "/ready"})
#: The files of the page at ``/``, on which a key is entered.
_OPEN_BELOW = "/playground/"
#: Who may read lists of voices and models, and the documentation.
_READERS = frozenset({KeyScope.SPEAK, KeyScope.CLONE})


class ScopeRules:
    """Which scope a request needs: that of its path prefix, the longest, else ``speak``.

    ``scopes`` are the prefixes that need another one, ``costly`` the paths where a GET speaks.
    """

    def __init__(self, scopes: Mapping[str, KeyScope], costly: Collection[str]) -> None:
        self._scopes = scopes
        self._costly = costly

    def needed(self, scope: types.Scope) -> frozenset[KeyScope]:
        """Return the scopes of which a key must have one; none where no key is needed."""
        if scope["path"] in _OPEN or scope["path"].startswith(_OPEN_BELOW):
            return frozenset()
        own = longest_prefix(scope["path"], self._scopes, KeyScope.SPEAK)
        if own in _READERS and not costs(scope, self._costly):
            return _READERS
        return frozenset({own})
