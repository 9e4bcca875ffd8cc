"""Reference clips as the reference implementation prepares them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.speaker import SpeakerLatents, speaker_latents


def padded_speaker_latents(
    autoencoder: Autoencoder,
    pca: Pca,
    audio: Tensor,
    *,
    max_latents: int = 6400,
    chunk_latents: int = 640,
    pad_to_max: bool = False,
    divis: int | None = 4,
) -> SpeakerLatents:
    """Encode with the last chunk zero-padded to full length, and no lower limit of the audio's length.

    The valid latents are those of ``speaker_latents``. With ``pad_to_max`` the result is ``max_latents`` long:
    encodings of silence up to the end of the last chunk, then zeros.
    """
    hop = autoencoder.config.samples_per_latent
    audio = audio[: max_latents * hop]
    valid = audio.shape[0] // hop
    padded = F.pad(audio, (0, -audio.shape[0] % (chunk_latents * hop)))
    latents, _ = speaker_latents(
        autoencoder, pca, padded, max_latents=len(padded) // hop, chunk_latents=chunk_latents, divis=None
    )
    length = max_latents if pad_to_max else valid
    length -= length % (divis or 1)
    latents = F.pad(latents, (0, 0, 0, max(0, length - latents.shape[0])))[:length]
    return SpeakerLatents(latents, min(valid, length))
