"""The encoders of texts and prefixes as captured CUDA graphs, one per padded length.

An arrival waits for its text, a stream for its prefix, and both are hundreds of short kernels. Unpadded, each new
length also costs a search for kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from echo.model.cuda.capture import Capture, CudaGraphs
from echo.model.cuda.deviation import relative_deviation
from echo.model.network.dit import EchoDiT
from echo.model.network.encoders import Encoded
from echo.model.network.kv import KV, key_count
from echo.model.network.transfer import upload
from echo.types import MAX_LATENTS, MAX_TEXT_BYTES

log = logging.getLogger(__name__)

#: Captured lengths of texts in tokens; and of new patches in a prefix: blocks of 32, 64, 128, 256 and 640 latents.
TEXTS = (64, 128, 192, 256, 384, 512, MAX_TEXT_BYTES)
PATCHES = (8, 16, 32, 64, 160)
#: Relative deviation that bfloat16 in another order of sums may cause after all layers.
_TOLERANCE = 0.05


class CapturedEncoders:
    """``EchoDiT.encoders``; used by one thread.

    texts    captured lengths in tokens; patches: captured numbers of new patches (empty: no prefixes)
    misses   calls since the start that no graph has room for; all of them, where capturing failed
    """

    def __init__(
        self,
        dit: EchoDiT,
        *,
        texts: Sequence[int] = TEXTS,
        patches: Sequence[int] = PATCHES,
        capture: Capture | None = None,
    ) -> None:
        config, device, dtype = dit.config, dit.device, dit.dtype
        self._dit = dit
        self._texts = tuple(texts)
        self._patches = tuple(patches) if dit.blockwise else ()
        self._capture = capture or CudaGraphs(device)
        self._replay_text: dict[int, Callable[[], Tensor]] = {}
        self._replay_prefix: dict[int, Callable[[], Tensor]] = {}
        self.misses = 0

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        def kv(keys: int) -> KV:
            return zeros(config.num_layers, 2, config.num_heads, keys, config.head_dim)

        #: The number of tokens, then the tokens.
        self._ids = zeros(1 + self._texts[-1], dtype=torch.int32)
        self._text = kv(self._texts[-1])
        if not self._patches:
            return
        patch, heads = config.speaker_patch_size, config.speaker_num_heads
        shape = (config.speaker_num_layers, 2, heads)
        head_dim = config.speaker_model_size // heads
        #: Most patches before the new ones.
        self._room = -(-MAX_LATENTS // patch)
        self._new = zeros(self._patches[-1], patch * config.latent_size)
        self._past = zeros(*shape, self._room, head_dim)
        self._past_count = zeros(1, dtype=torch.int32)
        self._prefix = kv(self._patches[-1])
        self._encoded = zeros(*shape, self._patches[-1], head_dim)
        end = self._room + self._patches[-1]
        # Held here, because the graphs know their addresses.
        self._own_rotary = dit.latent_encoder.rotary.table(end, device)
        self._rotary = dit.rotary.table(end * patch, device)

    def start(self) -> bool:
        """Capture every length and verify some replays; False, with a log line, when this does not work here."""
        try:
            self.capture()
            deviation = self._deviation()
        except Exception as error:
            log.warning("CUDA graphs of the encoders do not work here: %s", type(error).__name__)
            log.debug("CUDA graphs of the encoders", exc_info=error)
            self._forget()
            return False
        if not deviation <= _TOLERANCE:
            log.warning("CUDA graphs of the encoders deviate by %.3f, they are not used", deviation)
            self._forget()
        return deviation <= _TOLERANCE

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture every length, the longest first, because the others then share its memory pool."""
        self._ids[0] = 1
        for length in reversed(self._texts):
            self._replay_text[length] = self._capture(partial(self._encode_text, length))
        for count in reversed(self._patches):
            self._replay_prefix[count] = self._capture(partial(self._encode_prefix, count))
        self.misses = 0

    def text(self, ids: Tensor) -> KV | None:
        """``EchoDiT.encode_text`` of ids on the host; None for a length that is not captured."""
        n = len(ids)
        length = self._fitting(self._replay_text, n)
        if length is None:
            return None
        upload(torch.cat((torch.tensor([n], dtype=torch.int32), ids.to(torch.int32))), self._ids[: 1 + n])
        return _first(self._replay_text[length](), n)

    def prefix(self, patches: Tensor, past: KV | None) -> tuple[KV, Encoded] | None:
        """``EchoDiT.encode_prefix``; None for a length that is not captured."""
        n, before = len(patches), 0 if past is None else key_count(past)
        count = self._fitting(self._replay_prefix, n, too_long=bool(self._patches) and before > self._room)
        if count is None:
            return None
        upload(torch.tensor([before], dtype=torch.int32), self._past_count)
        # Padding is masked, but what another stream has left there may be no number, which survives the masking.
        self._past.zero_()
        if past is not None:
            self._past[:, :, :, :before] = past
        self._new[n:count] = 0
        self._new[:n] = patches
        kv = _first(self._replay_prefix[count](), n)
        new = self._encoded[:, :, :, :n]
        # States are for the keys alone, which are here already.
        return kv, Encoded(states=patches[:0], kv=new.clone() if past is None else torch.cat((past, new), dim=3))

    def _fitting(self, captured: dict[int, Callable[[], Tensor]], n: int, *, too_long: bool = False) -> int | None:
        """The shortest captured length that has room; counts a miss where there is none."""
        found = None if too_long else min((length for length in captured if length >= n), default=None)
        self.misses += found is None
        return found

    def _forget(self) -> None:
        self._replay_text.clear()
        self._replay_prefix.clear()

    def _encode_text(self, length: int) -> KV:
        mask = torch.arange(length, device=self._dit.device)[None] < self._ids[:1]
        kv = self._dit.text_keys(self._ids[1 : 1 + length], mask)
        return self._text[:, :, :, :length].copy_(kv)

    def _encode_prefix(self, count: int) -> KV:
        device, dit, room = self._dit.device, self._dit, self._room
        query = torch.arange(count, device=device)[:, None]
        key = torch.arange(room + count, device=device)
        mask = (key < self._past_count) | ((key >= room) & (key - room <= query))
        place = self._past_count + query[:, 0]
        encoded = dit.latent_encoder.encode(self._new[:count], self._past, self._own_rotary[place], mask)
        kv = dit.prefix_keys(encoded, self._rotary[place * dit.config.speaker_patch_size])
        self._encoded[:, :, :, :count].copy_(encoded.kv[:, :, :, room:])
        return self._prefix[:, :, :, :count].copy_(kv)

    @torch.inference_mode()
    def _deviation(self) -> float:
        """Largest deviation of a padded text and prefix from unpadded ones, relative to their RMS."""
        dit, generator = self._dit, torch.Generator().manual_seed(0)
        ids = torch.arange(1, 1 + self._texts[0] // 2, dtype=torch.int32)
        text = self.text(ids)
        assert text is not None
        pairs = [(text, dit.text_keys(ids.to(dit.device)))]
        past = expected_past = None
        for n in (5, 3) if self._patches else ():
            patches = torch.randn(n, self._new.shape[1], generator=generator).to(dit.device, dit.dtype)
            done = self.prefix(patches, past)
            assert done is not None
            expected, expected_encoded = dit.prefix_of(patches, expected_past)
            pairs.append((done[0], expected))
            past, expected_past = done[1].kv, expected_encoded.kv
        return relative_deviation(*zip(*pairs, strict=True))


def _first(kv: KV, n: int) -> KV:
    """A copy of the first keys, because the next replay writes to the same tensor."""
    return kv[:, :, :, :n].clone(memory_format=torch.contiguous_format)
