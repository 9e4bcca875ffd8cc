"""The transformer's forward where launching costs more than computing: on a CUDA device.

All rows of a step are attended in one call per layer, whatever their lengths, and the whole forward is recorded once
per bucket of latents and replayed. What differs between steps is in tensors of fixed shape that are filled before.
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

#: Latents of a forward, rows of guidance included, that are recorded; a step is padded to the next of them, in vain, so
#: beyond the smallest, of which the weights' reading is the cost, they lie at most half apart.
BUCKETS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
#: Keys that a row may attend to at once: 640 latents and their prefix, 768 bytes of text; or a voice of five minutes.
_LONGEST = 4096
#: Relative deviation that bfloat16 attention in another order may show at the end of all layers.
_CLOSE = 0.05

Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class Kernel(Protocol):
    """Attention of many rows at once, each to keys of its own place and number in a common memory."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        q        [latents, heads, d]; row i has those from begin[i] to begin[i + 1]; begin [rows + 1] int32
        k, v     [keys, heads, d]; row i sees counts[i] from starts[i] on; starts [rows + 1], counts [rows] int32
        longest  no row has more latents, or sees more keys
        returns  as ``attend``; for a row that sees nothing anything finite
        """
        ...


def flash(
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """FlashAttention as torch has it for CUDA. It finds a row's keys by ``starts`` and ``counts`` alone."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    aux = AuxRequest(lse=True)
    out, weight = varlen_attn(q, k, v, begin, starts, *longest, return_aux=aux, seqused_k=counts)
    return out, weight.transpose(0, 1)


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The same for any device, slowly: what ``flash`` is held against."""
    out, weight = torch.zeros_like(q), q.new_zeros(q.shape[:2], dtype=torch.float32)
    cuts = begin.tolist()
    for first, end, start, count in zip(cuts, cuts[1:], starts.tolist(), counts.tolist(), strict=False):
        if end > first and count:
            keys = torch.stack((k[start : start + count], v[start : start + count])).transpose(1, 2)
            out[first:end], weight[first:end] = attend(q[first:end], keys)
    return out, weight


class CudaGraphs:
    """Records forwards on a CUDA device as graphs that share their working memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Record ``run``; the returned function replays it into the same tensors."""
        with torch.cuda.device(self._device):
            return self._record(run)

    def _record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # lazy initialisation must not be recorded
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


class _Plan:
    """What a forward is told of its rows, at most ``rows``; latents of no row are given to one behind them.

    table  [7, rows + 2] int32: per row where its latents begin, where its own keys go, where its keys and the
           voice's begin and how many they are, and the position of its first latent
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.table = torch.zeros(7, rows + 2, dtype=torch.int32, device=device)
        self.begin, self.own, self.keys, self.count, self.voice, self.voice_count, self.position = self.table

    def fill(
        self, arena: Arena, contexts: Sequence[RowContext], sizes: Sequence[int], starts: Sequence[int], spare: int
    ) -> None:
        """Describe the rows of the next forward; latents of no row write to the place ``spare``."""
        rows, begin = [], 0
        for context, size, position in zip(contexts, sizes, starts, strict=True):
            keys = (arena.start(context.own), arena.start(context.keys), key_count(context.keys))
            voice = (0, 0) if context.voice is None else (arena.start(context.voice), key_count(context.voice))
            rows.append((begin, *keys, *voice, position))
            begin += size
        rows += [(begin, spare, 0, 0, 0, 0, 0)] * (self.rows + 2 - len(rows))
        host = torch.tensor(rows, dtype=torch.int32).T.contiguous()
        if self.table.device.type == "cuda":
            host = host.pin_memory()  # else the copy would wait for the device
        self.table.copy_(host, non_blocking=True)


class _Together:
    """Attention of all rows of a recorded forward of ``latents`` latents.

    own        [latents] where each latent's keys go
    has_voice  [latents] whether its row sees a voice
    """

    def __init__(self, memory: Tensor, plan: _Plan, own: Tensor, has_voice: Tensor, kernel: Kernel) -> None:
        self._memory = memory
        self._plan = plan
        self._own = own
        self._has_voice = has_voice[:, None, None]
        self._kernel = kernel

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        plan, longest = self._plan, (len(q), _LONGEST)
        keys, values = self._memory[layer].unbind(0)
        keys.index_copy_(0, self._own, k)
        values.index_copy_(0, self._own, v)
        mine, weight = self._kernel(q, keys, values, plan.begin, plan.keys, plan.count[:-1], longest)
        shared, its_weight = self._kernel(q, keys, values, plan.begin, plan.voice, plan.voice_count[:-1], longest)
        return torch.where(self._has_voice, blend(mine, weight, shared, its_weight), mine)


class RecordedForward:
    """``EchoDiT.velocity`` from recordings, one per bucket of latents; used by one thread.

    arena     memory of all contexts that are given in, with room for ``BUCKETS[-1]`` keys beside them
    max_rows  rows of a step; a step with more rows or latents than are recorded is computed as it is
    misses    how often that has happened since ``record``; all steps, where recording has failed
    """

    def __init__(
        self,
        dit: EchoDiT,
        arena: Arena,
        *,
        max_rows: int,
        buckets: Sequence[int] = BUCKETS,
        kernel: Kernel = flash,
        recorder: Recorder | None = None,
    ) -> None:
        self._dit = dit
        self._arena = arena
        self._kernel = kernel
        self._recorder = recorder or CudaGraphs(dit.device)
        self._buckets = buckets
        self._plan = _Plan(max_rows, dit.device)
        self._spare_room = arena.allocate(buckets[-1])
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
        return self._plan.rows

    def start(self) -> bool:
        """Record every bucket and try one; False, with a line in the log, when that does not work on this device."""
        try:
            self.record()
            deviation = self._deviation()
        except Exception as error:
            log.warning("recorded forwards do not work here, steps run unrecorded: %s", type(error).__name__)
            log.debug("recorded forwards", exc_info=error)
            self._replay.clear()
            return False
        if not deviation <= _CLOSE:
            log.warning("recorded forwards deviate by %.3f, steps run unrecorded", deviation)
            self._replay.clear()
        return deviation <= _CLOSE

    @torch.inference_mode()
    def record(self) -> None:
        """Record every bucket, the largest first, whose working memory the others then share."""
        self._plan.fill(self._arena, [], [], [], self._spare)
        for latents in reversed(self._buckets):
            self._replay[latents] = self._recorder(partial(self._forward, latents))
        self.misses = 0

    def takes(self, contexts: Sequence[RowContext], latents: int) -> bool:
        """Whether a step of this shape is recorded, and all of its keys are where recordings look for them."""
        return (
            bool(self._replay)
            and len(contexts) <= self._plan.rows
            and latents <= self._buckets[-1]
            and all(
                self._arena.holds(context.room) and (context.voice is None or self._arena.holds(context.voice))
                for context in contexts
            )
        )

    def __call__(
        self, rows: Sequence[Tensor], modulation: Tensor, contexts: Sequence[RowContext], starts: Sequence[int]
    ) -> list[Tensor] | None:
        """See ``EchoDiT.velocity``; None for a step that is not recorded."""
        sizes = [row.shape[0] for row in rows]
        latents = sum(sizes)
        if not self.takes(contexts, latents):
            self.misses += 1
            return None
        self._fill(rows, modulation, contexts, sizes, starts)
        bucket = self._buckets[bisect.bisect_left(self._buckets, latents)]
        # A copy: the next replay writes to the same tensor.
        return list(torch.split_with_sizes(self._replay[bucket]()[:latents].clone(), sizes))

    @torch.inference_mode()
    def _deviation(self) -> float:
        """How far a step with rows of every kind comes out from ``row_by_row``, relative to the rows' rms."""
        config = self._dit.config
        generator = torch.Generator().manual_seed(0)

        def some_kv(n: int) -> KV:
            room = self._arena.allocate(n)
            return room.copy_(torch.randn(room.shape, generator=generator))

        sizes, starts = [8, 8, 12], [0, 0, 8]
        text, prefix, voice = some_kv(20), some_kv(2), some_kv(30)
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
        return self._arena.start(self._spare_room)

    def _fill(
        self,
        rows: Sequence[Tensor],
        modulation: Tensor,
        contexts: Sequence[RowContext],
        sizes: Sequence[int],
        starts: Sequence[int],
    ) -> None:
        self._plan.fill(self._arena, contexts, sizes, starts, self._spare)
        torch.cat(list(rows), out=self._x[: sum(sizes)])
        self._modulation[: len(rows)].copy_(modulation.expand(len(rows), -1, -1, -1))

    def _forward(self, latents: int) -> Tensor:
        """One pass over the first ``latents`` of what was filled in."""
        plan, device = self._plan, self._dit.device
        number = torch.arange(latents, dtype=torch.int32, device=device)
        # Lines behind the last row all begin where it ends; the line ``rows`` is none's, so it takes what is left.
        owners = (torch.searchsorted(plan.begin, number, right=True) - 1).clamp(max=plan.rows)
        within = number - plan.begin[owners]
        attention = _Together(
            self._arena.memory, plan, (plan.own[owners] + within).long(), plan.voice_count[owners] > 0, self._kernel
        )
        turns = self._dit.rotary.table(_LONGEST, device)[plan.position[owners] + within]
        velocity: Tensor = self._dit(self._x[:latents], self._modulation, owners, turns, attention)
        return velocity
