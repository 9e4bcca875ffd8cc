"""Reference audio -> the latents from which the speaker encoder reads a voice."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from echo.errors import BadRequest
from echo.model.autoencoder.dac import Autoencoder, cut
from echo.model.autoencoder.pca import Pca
from echo.model.network.transfer import to_device
from echo.types import SAMPLE_RATE

T = TypeVar("T")


class SpeakerLatents(NamedTuple):
    """Latents [n, 80] float32, of which the first ``valid`` hold audio and the others padding."""

    latents: Tensor
    valid: int

    @property
    def mask(self) -> Tensor:
        """True where a latent holds audio, [n]."""
        return torch.arange(self.latents.shape[0], device=self.latents.device) < self.valid


def speaker_latents(
    autoencoder: Autoencoder,
    pca: Pca,
    audio: Tensor,
    *,
    max_latents: int = 6400,
    chunk_latents: int = 640,
    divis: int | None = 4,
) -> SpeakerLatents:
    """Encode mono 44.1 kHz audio [samples]; raises BadRequest when it is shorter than ``divis`` latents (186 ms).

    Audio beyond ``max_latents`` (297 s) is cut, and so are the last latents that fill no group of ``divis``: the
    speaker encoder reads patches. Chunks of ``chunk_latents`` are encoded independently, as the model was trained;
    only what is kept is encoded, which changes nothing because the encoder is causal.
    """
    return run_to_end(
        sliced_speaker_latents(
            autoencoder, pca, audio, max_latents=max_latents, chunk_latents=chunk_latents, divis=divis
        )
    )


def sliced_speaker_latents(
    autoencoder: Autoencoder,
    pca: Pca,
    audio: Tensor,
    *,
    max_latents: int = 6400,
    chunk_latents: int = 640,
    slice_latents: int | None = None,
    divis: int | None = 4,
) -> Generator[None, None, SpeakerLatents]:
    """``speaker_latents`` with a pause after each ``slice_latents`` (None = ``autoencoder.max_piece``)."""
    hop = autoencoder.config.samples_per_latent
    valid = min(audio.shape[0] // hop, max_latents)
    valid -= valid % (divis or 1)
    if valid == 0:
        needed_ms = -(-(divis or 1) * hop * 1000 // SAMPLE_RATE)
        raise BadRequest(
            f"The reference audio is too short: {audio.shape[0] * 1000 // SAMPLE_RATE} ms; "
            f"at least {needed_ms} ms are needed, and 5 to 30 s are best.",
            param="voice",
        )
    latents = yield from _encode(autoencoder, pca, audio[: valid * hop], chunk_latents, slice_latents)
    return SpeakerLatents(latents, valid)


def run_to_end(work: Generator[None, None, T]) -> T:
    """Run a sliced piece of work without pauses and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


@torch.inference_mode()  # holds while the generator runs, not while it pauses
def _encode(
    autoencoder: Autoencoder, pca: Pca, audio: Tensor, chunk_latents: int, slice_latents: int | None
) -> Generator[None, None, Tensor]:
    pca = pca.to(autoencoder.device)
    chunks: list[Tensor] = []
    for chunk in cut(audio, chunk_latents * autoencoder.config.samples_per_latent):
        pieces: list[Tensor] = []
        chunk = to_device(chunk, autoencoder.device)[None, None].to(autoencoder.dtype)
        for z_q, _ in autoencoder.encode_pieces(chunk, slice_latents):
            pieces.append(z_q)
            yield
        chunks.append(pca.encode(torch.cat(pieces, -1))[0])
    return torch.cat(chunks)
