"""All API keys: those of ``ECHO_API_KEYS``, and those of the keys file, which may change at any time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence

from echo.errors import Forbidden, Unauthorized
from echo.quota import Quotas
from echo.settings import Settings
from routes.keyfile import Key, KeyFile, digest_of
from routes.scopes import KeyScope
from routes.throttle import FailedKeys

#: Seconds between two looks at the file.
_LOOK_S = 1.0
#: What the keys of ``ECHO_API_KEYS`` may do: what they could before there were scopes.
_FIXED_SCOPES = frozenset({KeyScope.SPEAK, KeyScope.CLONE, KeyScope.METRICS})


class KeyRing:
    """The keys that are accepted, and how often an address has tried wrong ones.

    fixed         keys that never change
    file          more of them
    quotas        gets the limits of all keys
    max_failures  wrong keys that an address may try in a minute; 0 = any number
    """

    def __init__(
        self,
        fixed: Sequence[Key] = (),
        file: KeyFile | None = None,
        quotas: Quotas | None = None,
        max_failures: int = 0,
    ) -> None:
        self._fixed = list(fixed)
        self._file = file
        self._quotas = quotas or Quotas()
        self._failed = FailedKeys(max_failures)
        self._read: list[Key] = []
        self._keys: list[Key] = []
        self._take(file.keys if file is not None else [])

    def __bool__(self) -> bool:
        """Whether keys are asked for; where the file holds none, nobody has one."""
        return bool(self._fixed) or self._file is not None

    async def watch(self) -> None:
        """Take over changes of the file until cancelled; looks at it once a second."""
        while self._file is not None:
            await asyncio.sleep(_LOOK_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Take over changes of the file."""
        if self._file is None:
            return
        await asyncio.to_thread(self._file.look)
        if self._file.keys is not self._read:
            self._take(self._file.keys)

    def accepted(self, given: Sequence[bytes], where: str) -> Key:
        """Return the key among those that somebody at an address gives; raises Unauthorized or Overloaded."""
        offered = [digest_of(spelling) for one in given for spelling in _spellings(one)]
        # Every pair is compared, in constant time each: how long it takes says nothing about the keys.
        matches = [key for one in offered for key in self._keys if hmac.compare_digest(one, key.digest)]
        if matches and self._failed.open_to(where, matches[0].digest):
            self._failed.succeeded(where, matches[0].digest)
            return matches[0]
        if given:
            self._failed.failed(where)
        raise Unauthorized(
            "A valid API key is needed, as `Authorization: Bearer <key>`, `Authorization: Basic <key>`, "
            "`Authorization: Token <key>`, `xi-api-key: <key>` or `api-key: <key>`."
        )

    def charge(self, key: Key) -> None:
        """Count a request that speaks nothing against the key's limit; raises Overloaded."""
        self._quotas.spend(key.client, requests=1)

    def _take(self, keys: list[Key]) -> None:
        self._read = keys
        self._keys = [*self._fixed, *keys]
        self._quotas.configure({key.client: key.limits for key in keys})


def check_scope(key: Key, needed: frozenset[KeyScope]) -> None:
    """Raise Forbidden unless a key has one of the scopes."""
    if needed and not needed & key.scopes:
        names = " or ".join(f"`{scope}`" for scope in sorted(needed))
        raise Forbidden(f"This API key may not do this: it needs the scope {names}.", code="insufficient_scope")


def open_keys(settings: Settings, quotas: Quotas) -> KeyRing:
    """Return the keys that the settings name; raises ConfigError where the file cannot be used."""
    given = [key.get_secret_value() for key in settings.api_keys]
    fixed = [_fixed_key(number, digest_of(key.encode())) for number, key in enumerate(given, 1)]
    file = KeyFile(settings.keys_file.expanduser(), fixed) if settings.keys_file is not None else None
    return KeyRing(fixed, file, quotas, settings.max_failed_keys)


def _fixed_key(number: int, digest: bytes) -> Key:
    # The client stays who it is when the order of the keys changes: what it has made belongs to it.
    return Key(name=f"ECHO_API_KEYS#{number}", client=f"key {digest.hex()[:16]}", digest=digest, scopes=_FIXED_SCOPES)


def _spellings(given: bytes) -> tuple[bytes, ...]:
    """What was sent: as it is, and in UTF-8 if it is Latin-1, which older HTTP libraries and browsers send."""
    return (given,) if given.isascii() else (given, given.decode("latin-1").encode())
