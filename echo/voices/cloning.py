"""Clones as clients make, describe and delete them: switched on, in turn, and known to the cache at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from echo.errors import VoiceNotFound
from echo.voices.cache import VoiceCache
from echo.voices.clones import CloneStore, SampleReport
from echo.voices.library import VoiceLibrary
from echo.voices.metadata import VoiceMetadata
from echo.voices.names import DEFAULT_WORKSPACE, SEPARATOR, reduce_workspace
from echo.voices.turns import Turns
from echo.voices.voice import Voice, VoiceKind


class Cloning:
    """What all wire formats that take uploads share. Belongs to one event loop; files are written in threads."""

    def __init__(self, store: CloneStore, library: VoiceLibrary, cache: VoiceCache, turns: Turns) -> None:
        self._store = store
        self._library = library
        self._cache = cache
        self._turns = turns

    def require_enabled(self) -> None:
        """Raise FeatureDisabled unless cloning is switched on: to be called before an upload is read."""
        self._store.require_enabled()

    def find(self, name: str, workspace: str | None = None) -> Voice:
        """Return a voice by its id or, in its ``workspace``, by the short name of a clone; raises VoiceNotFound.

        Without a workspace the clones of all are found, by short name those of the default workspace.
        """
        voice = self._library.find(name, workspace=workspace or DEFAULT_WORKSPACE)
        if not belongs(voice, workspace):
            raise VoiceNotFound(name)
        return voice

    async def publish(
        self,
        metadata: VoiceMetadata,
        samples: Callable[[], Sequence[bytes]],
        *,
        nbytes: int,
        workspace: str = DEFAULT_WORKSPACE,
        client: str = "",
    ) -> tuple[Voice, tuple[SampleReport, ...]]:
        """Make a voice, named by the metadata, of the recordings that ``samples`` returns; it is called in a thread.

        ``nbytes`` of audio wait for their turn. Raises what ``CloneStore.publish`` does, and Overloaded where too many
        wait.
        """

        def publish() -> tuple[Voice, tuple[SampleReport, ...]]:
            return self._store.publish(
                workspace,
                metadata.display_name,
                samples(),
                lang=metadata.lang,
                description=metadata.description,
                tags=metadata.tags,
                consent=metadata.consent,
                transcript=metadata.transcript,
            )

        async with self._turns.take(client, nbytes):
            voice, reports = await asyncio.to_thread(publish)
        self._cache.forget(voice.id)  # of an earlier clone with the same id
        return voice, reports

    async def describe(
        self,
        name: str,
        workspace: str | None = None,
        *,
        display_name: str | None = None,
        description: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> Voice:
        """Change what is shown about a clone. Raises what ``CloneStore.update`` does."""

        def change() -> Voice:
            return self._store.update(
                self._exactly(name, workspace), display_name=display_name, description=description, tags=tags
            )

        return await asyncio.to_thread(change)

    async def delete(self, name: str, workspace: str | None = None) -> str:
        """Delete a clone by its id or short name and return its id. Raises what ``CloneStore.delete`` does."""

        def delete() -> str:
            voice_id = self._exactly(name, workspace)
            self._store.delete(voice_id)
            return voice_id

        voice_id = await asyncio.to_thread(delete)
        self._cache.forget(voice_id)
        return voice_id

    def _exactly(self, name: str, workspace: str | None) -> str:
        """Return the id of a voice to change; unlike for speech, its id or short name must match exactly."""
        self.require_enabled()
        voice = self.find(name, workspace)
        if name not in (voice.id, voice.id.partition(SEPARATOR)[2]):
            raise VoiceNotFound(name)
        return voice.id


def belongs(voice: Voice, workspace: str | None) -> bool:
    """Whether a workspace has this voice; None stands for all of them."""
    return workspace is None or voice.kind is not VoiceKind.CLONE or voice.workspace == reduce_workspace(workspace)
