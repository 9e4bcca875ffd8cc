"""CUDA graphs of the transformer's forward, because launching its kernels takes longer than running them.

One varlen attention call per layer serves all rows of a step, whatever their lengths. The forward is captured once per
bucket of latents and replayed. Inputs that differ between steps are copied into static tensors before a replay.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from echo.model.network.arena import Arena
from echo.model.network.attention import attend, blend
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, RowContext, key_count, pack_context
from echo.model.network.modulation import PARTS

log = logging.getLogger(__name__)

#: Captured batch sizes, in latents over all rows. A step is padded up to the next one, so neighbours differ
#: by at most 1.5x. Below 64, reading the weights dominates and padding is free.
BUCKETS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
#: Most keys of one row: 640 latents, their prefix and 768 bytes of text, or a voice of five minutes.
_MAX_KEYS = 4096
#: Relative deviation that bfloat16 attention in another summation order may cause after all layers.
_TOLERANCE = 0.05

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class Kernel(Protocol):
    """Variable-length attention: each row attends to its own range of keys in one shared tensor."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        q        [latents, heads, d]; row i has those from begin[i] to begin[i + 1]; begin [rows + 1] int32
        k, v     [keys, heads, d]; row i sees counts[i] from starts[i] on; starts [rows + 1], counts [rows] int32
        longest  no row has more latents, or sees more keys
        returns  as ``attend``; any finite value for a row without keys
        """
        ...


def flash(
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """FlashAttention of torch on CUDA. ``starts`` and ``counts`` alone define a row's keys."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    aux = AuxRequest(lse=True)
    out, weight = varlen_attn(q, k, v, begin, starts, *longest, return_aux=aux, seqused_k=counts)
    return out, weight.transpose(0, 1)


def attend_row_by_row(
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The same on any device, slowly: the reference for ``flash``."""
    out, weight = torch.zeros_like(q), q.new_zeros(q.shape[:2], dtype=torch.float32)
    cuts = begin.tolist()
    for first, end, start, count in zip(cuts, cuts[1:], starts.tolist(), counts.tolist(), strict=False):
        if end > first and count:
            keys = torch.stack((k[start : start + count], v[start : start + count])).transpose(1, 2)
            out[first:end], weight[first:end] = attend(q[first:end], keys)
    return out, weight


class CudaGraphs:
    """Captures functions as CUDA graphs that share one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture ``run``; the returned function replays it into the same output tensor."""
        with torch.cuda.device(self._device):
            return self._capture(run)

    def _capture(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # lazy initialisation must not be captured
            run()
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = run()
        self._pool = self._pool or graph.pool()

        def replay() -> Tensor:
            with torch.cuda.device(self._device):
                graph.replay()
            return out

        return replay


class _RowTable:
    """The rows of a captured forward, at most ``rows``, as one static tensor; padding latents belong to an extra row.

    table  [7, rows + 2] int32, per row: index of its first latent, index of its own keys, start and count of its keys,
           start and count of its voice's keys, position of its first latent
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.table = torch.zeros(7, rows + 2, dtype=torch.int32, device=device)
        self.begin, self.own, self.keys, self.count, self.voice, self.voice_count, self.position = self.table

    def fill(
        self, arena: Arena, contexts: Sequence[RowContext], sizes: Sequence[int], starts: Sequence[int], spare: int
    ) -> None:
        """Write the rows of the next forward; padding latents write their keys to index ``spare``."""
        rows, begin = [], 0
        for context, size, position in zip(contexts, sizes, starts, strict=True):
            keys = (arena.start(context.own), arena.start(context.keys), key_count(context.keys))
            voice = (0, 0) if context.voice is None else (arena.start(context.voice), key_count(context.voice))
            rows.append((begin, *keys, *voice, position))
            begin += size
        rows += [(begin, spare, 0, 0, 0, 0, 0)] * (self.rows + 2 - len(rows))
        host = torch.tensor(rows, dtype=torch.int32).T.contiguous()
        if self.table.device.type == "cuda":
            host = host.pin_memory()  # else the copy would block on the device
        self.table.copy_(host, non_blocking=True)


class _BatchedAttention:
    """Attention of all rows of a captured forward.

    own        [latents] index at which each latent's keys are stored
    has_voice  [latents] whether its row has a voice
    """

    def __init__(self, memory: Tensor, rows: _RowTable, own: Tensor, has_voice: Tensor, kernel: Kernel) -> None:
        self._memory = memory
        self._table = rows
        self._own = own
        self._has_voice = has_voice[:, None, None]
        self._kernel = kernel

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Implement ``Attention``."""
        rows, longest = self._table, (len(q), _MAX_KEYS)
        keys, values = self._memory[layer].unbind(0)
        keys.index_copy_(0, self._own, k)
        values.index_copy_(0, self._own, v)
        mine, weight = self._kernel(q, keys, values, rows.begin, rows.keys, rows.count[:-1], longest)
        shared, its_weight = self._kernel(q, keys, values, rows.begin, rows.voice, rows.voice_count[:-1], longest)
        return torch.where(self._has_voice, blend(mine, weight, shared, its_weight), mine)


class CapturedForward:
    """``EchoDiT.velocity`` as captured CUDA graphs, one per bucket of latents; used by one thread.

    arena     allocator of all contexts, with ``BUCKETS[-1]`` keys to spare
    max_rows  most rows of a step; a step with more rows or latents than captured runs eagerly
    misses    number of such steps since ``capture``; all steps, where capturing failed
    """

    def __init__(
        self,
        dit: EchoDiT,
        arena: Arena,
        *,
        max_rows: int,
        buckets: Sequence[int] = BUCKETS,
        kernel: Kernel = flash,
        capture: Capture | None = None,
    ) -> None:
        self._dit = dit
        self._arena = arena
        self._kernel = kernel
        self._capture_graph = capture or CudaGraphs(dit.device)
        self._buckets = buckets
        self._table = _RowTable(max_rows, dit.device)
        self._spare_buffer = arena.allocate(buckets[-1])
        config = dit.config
        self._x = torch.zeros(buckets[-1], config.latent_size, device=dit.device)
        self._modulation = torch.zeros(
            max_rows + 1, config.num_layers, PARTS, config.model_size, dtype=dit.dtype, device=dit.device
        )
        self._replay: dict[int, Callable[[], Tensor]] = {}
        self.misses = 0

    @property
    def max_rows(self) -> int:
        """Rows of a step."""
        return self._table.rows

    def start(self) -> bool:
        """Capture every bucket and verify one replay; False, with a log line, when this does not work on the device."""
        try:
            self.capture()
            deviation = self._deviation()
        except Exception as error:
            log.warning("CUDA graphs do not work here, steps run eagerly: %s", type(error).__name__)
            log.debug("CUDA graphs", exc_info=error)
            self._replay.clear()
            return False
        if not deviation <= _TOLERANCE:
            log.warning("CUDA graphs deviate by %.3f from eager steps, steps run eagerly", deviation)
            self._replay.clear()
        return deviation <= _TOLERANCE

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture every bucket, the largest first, because the others then share its memory pool."""
        self._table.fill(self._arena, [], [], [], self._spare)
        for latents in reversed(self._buckets):
            self._replay[latents] = self._capture_graph(partial(self._forward, latents))
        self.misses = 0

    def can_replay(self, contexts: Sequence[RowContext], latents: int) -> bool:
        """Whether a step of this shape is captured and all of its keys are in the arena."""
        return (
            bool(self._replay)
            and len(contexts) <= self._table.rows
            and latents <= self._buckets[-1]
            and all(
                self._arena.holds(context.buffer) and (context.voice is None or self._arena.holds(context.voice))
                for context in contexts
            )
        )

    def __call__(
        self, rows: Sequence[Tensor], modulation: Tensor, contexts: Sequence[RowContext], starts: Sequence[int]
    ) -> list[Tensor] | None:
        """``EchoDiT.velocity``; None for a step that is not captured."""
        sizes = [row.shape[0] for row in rows]
        latents = sum(sizes)
        if not self.can_replay(contexts, latents):
            self.misses += 1
            return None
        self._fill(rows, modulation, contexts, sizes, starts)
        bucket = self._buckets[bisect.bisect_left(self._buckets, latents)]
        # A copy: the next replay writes to the same tensor.
        return list(torch.split_with_sizes(self._replay[bucket]()[:latents].clone(), sizes))

    @torch.inference_mode()
    def _deviation(self) -> float:
        """Deviation of a step with rows of every kind from ``row_by_row``, relative to the rows' RMS."""
        config = self._dit.config
        generator = torch.Generator().manual_seed(0)

        def random_kv(n: int) -> KV:
            buffer = self._arena.allocate(n)
            return buffer.copy_(torch.randn(buffer.shape, generator=generator))

        sizes, starts = [8, 8, 12], [0, 0, 8]
        text, prefix, voice = random_kv(20), random_kv(2), random_kv(30)
        sources, voices = [[text], [], [text, prefix]], [voice, voice, None]
        contexts = [
            pack_context([row], size, self._arena.allocate, [shared])[0]
            for row, size, shared in zip(sources, sizes, voices, strict=True)
        ]
        rows = [torch.randn(size, config.latent_size, generator=generator).to(self._dit.device) for size in sizes]
        modulation = self._dit.modulation([0.9, 0.9, 0.4])
        found = self(rows, modulation, contexts, starts)
        assert found is not None
        expected = self._dit.row_by_row(rows, modulation, contexts, starts)
        return max(
            float((a - b).square().mean().sqrt() / b.square().mean().sqrt())
            for a, b in zip(found, expected, strict=True)
        )

    @property
    def _spare(self) -> int:
        return self._arena.start(self._spare_buffer)

    def _fill(
        self,
        rows: Sequence[Tensor],
        modulation: Tensor,
        contexts: Sequence[RowContext],
        sizes: Sequence[int],
        starts: Sequence[int],
    ) -> None:
        self._table.fill(self._arena, contexts, sizes, starts, self._spare)
        torch.cat(list(rows), out=self._x[: sum(sizes)])
        self._modulation[: len(rows)].copy_(modulation.expand(len(rows), -1, -1, -1))

    def _forward(self, latents: int) -> Tensor:
        """One forward over the first ``latents`` of the static inputs."""
        rows, device = self._table, self._dit.device
        number = torch.arange(latents, dtype=torch.int32, device=device)
        # Unused rows all begin where the last row ends; row index ``rows`` is never used, so padding latents map to it.
        row_index = (torch.searchsorted(rows.begin, number, right=True) - 1).clamp(max=rows.rows)
        within = number - rows.begin[row_index]
        own = (rows.own[row_index] + within).long()
        attention = _BatchedAttention(
            self._arena.memory,
            rows,
            own,
            rows.voice_count[row_index] > 0,
            self._kernel,
        )
        rotary = self._dit.rotary.table(_MAX_KEYS, device)[rows.position[row_index] + within]
        velocity: Tensor = self._dit(self._x[:latents], self._modulation, row_index, rotary, attention)
        return velocity
