"""The attention heads that times of words come from: read, or found once and kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from echo.model.alignment import BOS_AND_TAG, SENTENCES, search
from echo.model.files.heads import HEADS_FILE, fingerprint, read_heads, write_heads
from echo.model.network.dit import EchoDiT

log = logging.getLogger(__name__)


class TextHeads:
    """The heads of one loaded model, which watches them from the moment they are known.

    weights   the file that it was loaded from; None: its heads are never known, and times are estimates
    cache     folder for what was found; the model's own folder comes first
    tokenize  as the model reads a text
    """

    def __init__(
        self, dit: EchoDiT, weights: Path | None, cache: Path, tokenize: Callable[[str], Sequence[int]]
    ) -> None:
        self._dit = dit
        self._tokenize = tokenize
        self._weights = "" if weights is None else fingerprint(weights)
        self._kept = cache / f"alignment-{self._weights}.json"
        #: Whether a search is worth it.
        self.unknown = False
        if weights is not None:
            files = (weights.parent / HEADS_FILE, self._kept)
            if (heads := read_heads(files, self._weights, dit.config)) is None:
                self.unknown = True
            else:
                dit.watched = heads

    def find(self) -> Generator[None, None, None]:
        """Search for the heads and keep them; yields where other work may run. A failure is only a warning."""
        self.unknown = False
        began = time.perf_counter()
        try:
            tokens = [self._tokenize(sentence) for sentence in SENTENCES]
            found = yield from search(self._dit, tokens, BOS_AND_TAG)
            self._dit.watched = found.heads
            write_heads(self._kept, self._weights, found.heads, found.shares)
        except Exception as error:
            log.warning("the heads for times of words cannot be found or kept: %s", type(error).__name__)
            log.debug("heads", exc_info=error)
            return
        log.info(
            "times of words: %s, found in %.1f s and kept in %s",
            " ".join(f"{layer}.{head}" for layer, head in found.heads)
            or "no head follows the text, they are estimates",
            time.perf_counter() - began,
            self._kept,
        )
