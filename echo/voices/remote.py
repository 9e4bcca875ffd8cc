"""Voices by URL: one that is not here is fetched from below the operator's base URL, once, and kept."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy

from echo.decoding.pool import DecoderPool
from echo.decoding.stop import Stop, Stopped
from echo.errors import BadRequest, EchoError, VoiceUnavailable
from echo.types import Audio
from echo.voices.container import sniff
from echo.voices.download import Downloader, DownloadFailed, DownloadRefused
from echo.voices.fetched import FetchedVoices
from echo.voices.names import AUDIO_SUFFIXES
from echo.voices.reference import read_clip
from echo.voices.turns import Turns

log = logging.getLogger(__name__)

#: How long it is remembered that a voice is not there, or that its source did not answer, in seconds.
FORGET_S = 30.0
#: Voices of which that is remembered.
_MAX_REMEMBERED = 10_000

Outcome = bool | EchoError
"""Whether the voice is here now; or why that is not known."""


class RemoteVoices:
    """Fetches voices; belongs to one event loop.

    A clip is tried under each audio suffix, checked by decoding it in a child process, and kept in ``fetched``. All
    who ask for one id at the same time wait for one fetch, which takes at most ``timeout_s``; clients take turns.
    Nothing of the URL or of what its server says reaches a client: that goes to the log.
    """

    def __init__(
        self,
        downloader: Downloader,
        fetched: FetchedVoices,
        decoders: DecoderPool,
        *,
        timeout_s: float,
        forget_s: float = FORGET_S,
        observe: Callable[[str], None] | None = None,
    ) -> None:
        self._downloader = downloader
        self._fetched = fetched
        self._decoders = decoders
        self._timeout_s = timeout_s
        self._forget_s = forget_s
        self._observe = observe
        self._turns = Turns()
        self._fetches: dict[str, asyncio.Task[Outcome]] = {}
        self._known: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()

    async def fetch(self, voice_ids: Sequence[str], client: str = "") -> bool:
        """Fetch the first of some voices that is there; return whether one is.

        Raises VoiceUnavailable where that is not known at the moment, and Overloaded where too many fetches wait.
        """
        for voice_id in voice_ids:
            outcome = self._remembered(voice_id)
            if outcome is None:
                outcome = await asyncio.shield(self._shared_fetch(voice_id, client))
            if isinstance(outcome, EchoError):
                raise copy(outcome)
            if outcome:
                return True
        return False

    async def close(self) -> None:
        """End all fetches and close the connections."""
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        await self._downloader.close()

    def _remembered(self, voice_id: str) -> Outcome | None:
        until, outcome = self._known.get(voice_id, (0.0, None))
        return outcome if time.monotonic() < until else None

    def _shared_fetch(self, voice_id: str, client: str) -> asyncio.Task[Outcome]:
        fetch = self._fetches.get(voice_id)
        if fetch is None:
            fetch = self._fetches[voice_id] = asyncio.create_task(self._fetch_in_turn(voice_id, client))
            fetch.add_done_callback(lambda done: self._fetches.pop(voice_id, None))
        return fetch

    async def _fetch_in_turn(self, voice_id: str, client: str) -> Outcome:
        """Fetch a voice; failures are returned, because several may wait for them."""
        try:
            async with self._turns.take(client):
                name, outcome = await self._fetch(voice_id)
        except EchoError as error:  # too many wait; not remembered
            return error
        except Exception:
            log.exception("voice %s could not be fetched", voice_id)
            name, outcome = "failed", _unavailable(self._forget_s)
        if self._observe is not None:
            self._observe(name)
        if outcome is not True:
            self._remember(voice_id, outcome)
        return outcome

    async def _fetch(self, voice_id: str) -> tuple[str, Outcome]:
        """Return the name of the outcome for the metrics, and the outcome."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if (found := await self._download(voice_id)) is None:
                    return "missing", False
            data, suffix = found
            await self._check(data)
            await asyncio.to_thread(self._fetched.add, voice_id, data, suffix)
        except (DownloadRefused, BadRequest) as error:
            log.warning("voice %s is refused: %s", voice_id, error)
            return "refused", False
        except (DownloadFailed, TimeoutError, OSError) as error:
            log.warning("voice %s could not be fetched: %s", voice_id, error or "it took too long")
            return "failed", _unavailable(self._forget_s)
        log.info("voice %s has been fetched: %d bytes", voice_id, len(data))
        return "done", True

    async def _download(self, voice_id: str) -> tuple[bytes, str] | None:
        for suffix in AUDIO_SUFFIXES:
            data = await self._downloader.get(voice_id + suffix)
            if data is not None and sniff(data) is not None:
                return data, suffix
            if data is not None:  # some servers answer with a page where there is no such file
                log.warning("voice %s: %s%s is no audio file", voice_id, voice_id, suffix)
        return None

    async def _check(self, data: bytes) -> None:
        """Raise BadRequest unless the clip can serve as a reference."""
        stop = Stop()

        def decode(clip: bytes, demuxer: str, max_seconds: float) -> Audio:
            return self._decoders.decode(clip, demuxer, max_seconds, stop)

        try:
            await asyncio.to_thread(read_clip, data, decode=decode)
        except Stopped:
            raise DownloadFailed("the server is shutting down") from None
        finally:
            stop.set()

    def _remember(self, voice_id: str, outcome: Outcome) -> None:
        self._known[voice_id] = (time.monotonic() + self._forget_s, outcome)
        self._known.move_to_end(voice_id)
        if len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)


def _unavailable(retry_after_s: float) -> VoiceUnavailable:
    return VoiceUnavailable(
        "The voice cannot be read from where it is kept. Try again shortly.", param="voice", retry_after_s=retry_after_s
    )
