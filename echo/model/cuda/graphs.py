"""The transformer's forward as captured CUDA graphs.

One varlen attention call per layer serves all rows of a step, whatever their lengths. The forward is captured once per
bucket of latents and replayed. Inputs that differ between steps are copied into static tensors before a replay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from echo.model.cuda.capture import Capture, CudaGraphs
from echo.model.cuda.deviation import relative_deviation
from echo.model.network.arena import Arena
from echo.model.network.attention import attend, blend
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, RowContext, key_count, pack_context
from echo.model.network.modulation import PARTS
from echo.model.network.transfer import upload
from echo.model.network.watch import Sink, Watch, hand_out
from echo.types import MAX_LATENTS

log = logging.getLogger(__name__)

#: Captured batch sizes, in latents over all rows: multiples of 128 beyond 256, because a step is padded up to the next
#: one. Below 64, reading the weights dominates and padding is free.
BUCKETS = (32, 64, 96, 128, 192, *range(256, 2049, 128))
#: Most keys of one row: 640 latents, their prefix and 768 bytes of text, or a voice of five minutes.
_MAX_KEYS = 4096
#: Most latents of one row, the longest block.
_MAX_ROW = MAX_LATENTS
#: A captured forward has room for a row per so many latents, but for a few at least. The attention's grid covers every
#: row that there is room for, so empty ones cost time too.
_LATENTS_PER_ROW, _FEWEST_ROWS = 16, 8
#: Relative deviation that bfloat16 attention in another summation order may cause after all layers.
_TOLERANCE = 0.05


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
    """FlashAttention of torch on CUDA. ``starts`` and ``counts`` alone define a row's keys.

    The operator itself, because ``varlen_attn`` of torch 2.11 has no ``seqused_k``; this signature is the same since.
    """
    out, weight, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, begin, starts, *longest, 0.0, False, False, seqused_k=counts
    )
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


class _RowTable:
    """The rows of a captured forward as one static tensor; padding latents belong to an extra row.

    rows   most rows
    table  [7, rows + 2] int32, per row: index of its first latent, index of its own keys, start and count of its keys,
           start and count of its voice's keys, position of its first latent
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.table = torch.zeros(7, rows + 2, dtype=torch.int32, device=device)

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
        upload(torch.tensor(rows, dtype=torch.int32).T.contiguous(), self.table)


class _BatchedAttention:
    """Attention of all rows of a captured forward.

    table      [7, rows + 2] of ``_RowTable``, maybe cut to fewer rows
    own        [latents] index at which each latent's keys are stored
    has_voice  [latents] whether its row has a voice
    watch      takes queries out
    """

    def __init__(
        self, memory: Tensor, table: Tensor, own: Tensor, has_voice: Tensor, kernel: Kernel, watch: Watch
    ) -> None:
        self._memory = memory
        self._watch = watch
        self._begin, _, self._keys, self._count, self._voice, self._voice_count, _ = table
        self._own = own
        self._has_voice = has_voice[:, None, None]
        self._kernel = kernel

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Implement ``Attention``."""
        self._watch.take(layer, q)
        longest = (min(len(q), _MAX_ROW), _MAX_KEYS)
        keys, values = self._memory[layer].unbind(0)
        keys.index_copy_(0, self._own, k)
        values.index_copy_(0, self._own, v)
        mine, weight = self._kernel(q, keys, values, self._begin, self._keys, self._count[:-1], longest)
        shared, its_weight = self._kernel(q, keys, values, self._begin, self._voice, self._voice_count[:-1], longest)
        return torch.where(self._has_voice, blend(mine, weight, shared, its_weight), mine)


class CapturedForward:
    """``EchoDiT.velocity`` as captured CUDA graphs, one per bucket of latents; used by one thread.

    arena     allocator of all contexts, with ``BUCKETS[-1]`` keys to spare
    max_rows  most rows of a replay, at least 4; a step with more of them, or of latents, is replayed in parts
    misses    number of steps since ``capture`` of which some rows ran row by row, because they are too long or their
              keys are not in the arena; all steps, where capturing failed
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
        self._rotary = dit.rotary.table(_MAX_KEYS, dit.device)
        #: Queries of the watched heads, written by every replay: a graph cannot ask whether a step is a block's last.
        self._queries = dit.query_buffer(0)
        self._replay: dict[int, Callable[[], Tensor]] = {}
        self.misses = 0

    @property
    def max_rows(self) -> int:
        """Rows of a replay."""
        return self._table.rows

    def start(self) -> bool:
        """Capture every bucket and verify some replays; False, with a log line, when this does not work here."""
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
        self._queries = self._dit.query_buffer(self._buckets[-1])
        for latents in reversed(self._buckets):
            self._replay[latents] = self._capture_graph(partial(self._forward, latents))
        self.misses = 0

    def __call__(
        self,
        rows: Sequence[Tensor],
        modulation: Tensor,
        contexts: Sequence[RowContext],
        starts: Sequence[int],
        sinks: Sequence[Sink | None] = (),
    ) -> list[Tensor]:
        """``EchoDiT.velocity``. Rows that are too long, or whose keys are not in the arena, run row by row, the
        others in as few replays as have room for them.
        """
        captured = [i for i in range(len(rows)) if self._can_replay(rows[i], contexts[i])]
        runs = [(part, self._replayed) for part in self._parts(captured, rows)]
        if others := [i for i in range(len(rows)) if i not in captured]:
            self.misses += 1
            runs.append((others, self._dit.row_by_row))
        found: list[Tensor | None] = [None] * len(rows)
        for part, run in runs:
            shared = modulation if modulation.shape[0] == 1 or len(part) == len(rows) else _of(modulation, part)
            velocities = run(
                [rows[i] for i in part],
                shared,
                [contexts[i] for i in part],
                [starts[i] for i in part],
                [sinks[i] for i in part] if sinks else (),
            )
            for i, velocity in zip(part, velocities, strict=True):
                found[i] = velocity
        return [velocity for velocity in found if velocity is not None]

    def _can_replay(self, row: Tensor, context: RowContext) -> bool:
        """Whether graphs are captured and have room for the row, and all of its keys are in the arena."""
        return (
            bool(self._replay)
            and row.shape[0] <= min(self._buckets[-1], _MAX_ROW)
            and self._arena.holds(context.buffer)
            and (context.voice is None or self._arena.holds(context.voice))
        )

    def _parts(self, numbers: Sequence[int], rows: Sequence[Tensor]) -> list[list[int]]:
        """Cut the rows into consecutive parts that a replay has room for."""
        parts: list[list[int]] = []
        latents = 0
        for i in numbers:
            size = rows[i].shape[0]
            if not parts or latents + size > self._buckets[-1] or len(parts[-1]) == self.max_rows:
                parts.append([])
                latents = 0
            parts[-1].append(i)
            latents += size
        return parts

    def _replayed(
        self,
        rows: Sequence[Tensor],
        modulation: Tensor,
        contexts: Sequence[RowContext],
        starts: Sequence[int],
        sinks: Sequence[Sink | None] = (),
    ) -> list[Tensor]:
        sizes = [row.shape[0] for row in rows]
        self._table.fill(self._arena, contexts, sizes, starts, self._spare)
        torch.cat(list(rows), out=self._x[: sum(sizes)])
        self._modulation[: len(rows)].copy_(modulation.expand(len(rows), -1, -1, -1))
        # A copy: the next replay writes to the same tensor.
        out = self._replay[self._bucket(sum(sizes), len(rows))]()[: sum(sizes)].clone()
        if any(sinks):
            hand_out(self._queries, sizes, sinks)
        return list(torch.split_with_sizes(out, sizes))

    def _bucket(self, latents: int, rows: int) -> int:
        """The smallest bucket with room for so much; the largest has room for all rows."""
        return next(bucket for bucket in self._buckets if bucket >= latents and self._rows_of(bucket) >= rows)

    def _rows_of(self, bucket: int) -> int:
        if bucket == self._buckets[-1]:
            return self.max_rows
        return min(self.max_rows, max(_FEWEST_ROWS, bucket // _LATENTS_PER_ROW))

    @torch.inference_mode()
    def _deviation(self) -> float:
        """Largest deviation of a step with rows of every kind from ``row_by_row``, relative to the rows' RMS.

        Steps of the smallest bucket, of one whose rows have several blocks of queries, and of the largest.
        """
        largest = self._buckets[-1]
        longest = min(_MAX_ROW, 5 * largest // 16)
        steps = [(7, 8), (longest // 4, longest // 5), (largest // 2 - longest, longest)]
        pairs = [pair for sizes in steps for pair in self._compared(*sizes)]
        return relative_deviation(*zip(*pairs, strict=True))

    def _compared(self, first: int, second: int) -> list[tuple[Tensor, Tensor]]:
        """The rows of a replayed step, each with what ``row_by_row`` makes of it: two of either size."""
        config = self._dit.config
        generator = torch.Generator().manual_seed(0)

        def random_kv(n: int) -> KV:
            buffer = self._arena.allocate(n)
            return buffer.copy_(torch.randn(buffer.shape, generator=generator))

        text, prefix, voice = random_kv(20), random_kv(2), random_kv(30)
        contexts = [
            *pack_context([[text], []], first, self._arena.allocate, [voice, voice]),
            *pack_context([[text, prefix], [prefix]], second, self._arena.allocate, [None, voice]),
        ]
        sizes, starts = [first, first, second, second], [0, 0, 8, 8]
        rows = [torch.randn(size, config.latent_size, generator=generator).to(self._dit.device) for size in sizes]
        modulation = self._dit.modulation([0.9, 0.9, 0.4, 0.4])
        found = self._replayed(rows, modulation, contexts, starts)
        expected = self._dit.row_by_row(rows, modulation, contexts, starts)
        return list(zip(found, expected, strict=True))

    @property
    def _spare(self) -> int:
        return self._arena.start(self._spare_buffer)

    def _forward(self, latents: int) -> Tensor:
        """One forward over the first ``latents`` of the static inputs."""
        most, device = self._rows_of(latents), self._dit.device
        table = self._table.table[:, : most + 2]
        begin, own, _, _, _, voice_count, position = table
        number = torch.arange(latents, dtype=torch.int32, device=device)
        # Unused rows all begin where the last row ends; row index ``most`` is never used, so padding latents map to it.
        row_index = (torch.searchsorted(begin, number, right=True) - 1).clamp(max=most)
        within = number - begin[row_index]
        attention = _BatchedAttention(
            self._arena.memory,
            table,
            (own[row_index] + within).long(),
            voice_count[row_index] > 0,
            self._kernel,
            Watch(self._dit.watched, self._queries),
        )
        rotary = self._rotary[position[row_index] + within]
        velocity: Tensor = self._dit(self._x[:latents], self._modulation, row_index, rotary, attention)
        return velocity


def _of(modulation: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of the modulation, without an index on the device."""
    return torch.stack([modulation[i] for i in rows])
