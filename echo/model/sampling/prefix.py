"""The latents an utterance already has, as the keys that its next block attends to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What was spoken so far, encoded; immutable, so a block may be generated again from the same prefix.

    length   latents so far = position of the next block's first latent
    kv       [layers, 2, heads, ceil(length / patch), d], half the heads rotated at every patch's first latent;
             None while the prefix is empty
    """

    model: EchoDiT
    length: int = 0
    kv: KV | None = None
    #: Latents of the unfinished last patch, [length % patch, latent_size].
    _rest: Tensor | None = None
    #: The latent encoder's own K/V of the finished patches.
    _past: Tensor | None = None

    @torch.inference_mode()
    def append(self, latents: Tensor) -> Prefix:
        """The prefix with ``latents [n, latent_size]`` behind it.

        Only the new patches are encoded (the encoder is causal). A patch that is not full yet is padded with
        zeros, as the model has seen it, and encoded again once more latents are known. Raises ValueError for a
        model without its blockwise weights.
        """
        if not self.model.blockwise:
            raise ValueError("this model was loaded without the weights for speaking in blocks")
        if latents.shape[0] == 0:
            return self
        patch = self.model.config.speaker_patch_size
        done = self.length // patch
        fresh = latents if self._rest is None else torch.cat((self._rest, latents))
        full, over = divmod(fresh.shape[0], patch)
        padded = torch.cat((fresh, fresh.new_zeros(-over % patch, fresh.shape[1]))).reshape(-1, patch * fresh.shape[1])
        kv, encoded = self.model.encode_prefix(padded, self._past)
        if self.kv is not None:
            kv = torch.cat((self.kv[:, :, :, :done], kv), dim=3)
        return replace(
            self,
            length=self.length + latents.shape[0],
            kv=kv,
            _rest=fresh[full * patch :].clone() if over else None,
            _past=encoded.kv[:, :, :, : done + full] if done + full else None,
        )
