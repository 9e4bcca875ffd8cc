"""What the stages share: the device, a model with random weights and its fast forms, ceilings, a stop-watch."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from bench.light.shapes import Shapes
from bench.roofline import Ceilings, Cost, measure_ceilings, synchronize
from echo.engines.accelerate import Acceleration, accelerate, compile_blocks, make_arena, prepare_cuda
from echo.engines.block import BlockEngine
from echo.model.autoencoder import Autoencoder
from echo.model.cuda.capture import uncaptured
from echo.model.cuda.compile import Compiler
from echo.model.cuda.decoder import CapturedDecoder
from echo.model.cuda.encoders import CapturedEncoders
from echo.model.cuda.graphs import CapturedForward, attend_row_by_row
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho, random_autoencoder, random_dit, random_pca
from echo.model.network.dit import EchoDiT
from echo.scheduler.policy import Limits
from echo.text.tokenize import encode
from echo.types import MAX_LATENTS, SAMPLE_RATE, EngineInfo

#: Share of the free device memory for what is spoken: less than the server takes, because single stages hold a second
#: transformer or decoder beside it.
_SHARE = 0.5
_ON_CPU = 16 * 2**20
#: Bytes of encoded voices on the device.
_VOICES = 2**30
#: Timed calls at most, and calls in a row without waiting.
_MOST, _IN_A_ROW = 50, 10
#: Latents of the longest reference.
_SPEAKER_LATENTS = 6400


class Skip(Exception):
    """A stage has nothing to do here, and why."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of a call: the first, the median of the others, what the host spends on it, and one among many.

    ``host_ms`` ends when the call returns, ``ms`` when the device is done. ``in_a_row_ms`` waits for the device only
    after several calls: above ``ms`` it is never, far below it where launches and not kernels take the time.
    """

    first_ms: float
    ms: float
    host_ms: float
    in_a_row_ms: float


class Light:
    """The device and what runs on it; everything is made when it is first used.

    compile  whether to use torch.compile; cache: folder of what it has made
    vectors  folder of the golden vectors
    """

    def __init__(self, shapes: Shapes, device: torch.device, *, compile: bool, cache: Path, vectors: Path) -> None:
        self.shapes = shapes
        self.device = device
        self.vectors = vectors
        self._compile = compile
        self._cache = cache
        self._forward: CapturedForward | None = None
        self._acceleration: Acceleration | None = None
        self._free = 0
        self._ceilings: dict[str, Ceilings] = {}
        if device.type == "cuda":
            if device.index is not None:  # else it is the current one
                torch.cuda.set_device(device)
            prepare_cuda()

    # -- the model

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def model(self) -> EchoModel:
        """The model as the engine uses it, neither compiled nor captured."""
        shapes = self.shapes
        pca = random_pca(shapes.dit.latent_size, shapes.autoencoder.latent_dim, self.device)
        loaded = LoadedEcho(self.dit(), self.autoencoder("float32"), pca, {})
        resident = _VOICES if self.on_cuda else 0
        return EchoModel(loaded, encode, max_speaker_latents=_SPEAKER_LATENTS, resident_bytes=resident)

    def dit(self) -> EchoDiT:
        """A transformer of its own."""
        return random_dit(self.shapes.dit, self.device, self.shapes.dtype)

    def autoencoder(self, dtype: str) -> Autoencoder:
        """An autoencoder of its own; ``tf32`` stands for float32."""
        number: torch.dtype = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
        return random_autoencoder(self.shapes.autoencoder, self.device, number).fold_weight_norm().fuse()

    def graphs(self) -> dict[str, Any]:
        """What takes the place of CUDA graphs where there is no CUDA."""
        return {} if self.on_cuda else {"capture": uncaptured}

    def stand_ins(self) -> dict[str, Any]:
        """The same of CUDA graphs and FlashAttention."""
        return self.graphs() if self.on_cuda else {**self.graphs(), "kernel": attend_row_by_row}

    def compiler(self, name: str) -> Compiler:
        """A compiler; without CUDA it traces as for a GPU and runs what it has traced as it was written."""
        return Compiler(name) if self.on_cuda else Compiler(name, partial(torch.compile, backend="eager"))

    def forward(self) -> CapturedForward:
        """The steps, captured but not compiled; gone once ``acceleration`` is called."""
        if self._acceleration is not None:
            raise RuntimeError("the model has been compiled since")
        if self._forward is None:
            dit, buckets = self.model.dit, self.shapes.buckets
            dit.arena = make_arena(dit, self._budget() // 4, buckets[-1])
            self._forward = CapturedForward(
                dit, dit.arena, max_rows=self.shapes.max_rows, buckets=buckets, **self.stand_ins()
            )
        return self._forward

    def acceleration(self) -> Acceleration:
        """Everything compiled and captured as the server does it. Takes its time when it is first called."""
        if self._acceleration is None:
            self._forward = self.model.dit.captured = self.model.dit.arena = None
            self.free_memory()
            self._acceleration = self._accelerate() if self.on_cuda else self._stand_in_acceleration()
            self._acceleration.finish()
        return self._acceleration

    @property
    def accelerated(self) -> bool:
        """Whether ``acceleration`` has been called."""
        return self._acceleration is not None

    @contextlib.contextmanager
    def engine(self, acceleration: Acceleration | None = None) -> Iterator[BlockEngine]:
        """An engine that speaks with the accelerated model, or with another acceleration of it."""
        acceleration = acceleration or self.acceleration()
        info = EngineInfo(
            name="first-light",
            preset_family="echo",
            sample_rate=SAMPLE_RATE,
            device=str(self.device),
            backend=f"torch {torch.__version__}",
            license="",
            max_latents=MAX_LATENTS,
            num_layers=self.shapes.dit.num_layers,
            concurrent=self.shapes.jobs,
        )
        workers = ThreadPoolExecutor(2, thread_name_prefix="echo-worker") if self.on_cuda else None
        engine = BlockEngine(self.model, info, self.limits(), workers=workers, acceleration=acceleration)
        try:
            yield engine
        finally:
            engine.close()
            if workers is not None:
                workers.shutdown()

    def limits(self) -> Limits:
        """How many utterances share the device."""
        return Limits(
            max_jobs=self.shapes.jobs, max_bytes=self._budget(), max_rows=self.shapes.max_rows, mix_sizes=True
        )

    def _accelerate(self) -> Acceleration:
        return accelerate(
            self.model,
            "first-light",
            max_rows=self.shapes.max_rows,
            budget=self._budget(),
            jobs=self.shapes.jobs,
            artifacts=self._cache,
            compile=self._compile,
            compile_ae=False,  # a stage of its own
        )

    def _stand_in_acceleration(self) -> Acceleration:
        model, shapes = self.model, self.shapes
        compilers = []
        if self._compile:
            compilers.append(compile_blocks(model.dit, self.compiler("the model")))
        return Acceleration(
            model,
            compilers,
            forward=self.forward(),
            encoders=CapturedEncoders(model.dit, texts=shapes.texts, patches=shapes.patches, **self.graphs()),
            decoder=CapturedDecoder(model.autoencoder, model.pca, slots=32, shapes=shapes.pieces, **self.graphs()),
        )

    def _budget(self) -> int:
        if not self.on_cuda:
            return _ON_CPU
        if self._forward is None and self._acceleration is None:
            self._free = torch.cuda.mem_get_info(self.device)[0]
        return int(_SHARE * self._free)

    def release(self) -> None:
        """Let go of the model and all that belongs to it."""
        self.__dict__.pop("model", None)
        self._forward = self._acceleration = None
        self.free_memory()

    def free_memory(self) -> None:
        """Return to the device what nothing holds any more."""
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()

    # -- floors and times

    def ceilings(self, dtype: str) -> Ceilings:
        """The device's measured peaks; ``tf32`` is float32 with TF32 products."""
        if dtype not in self._ceilings:
            number = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
            with tf32(dtype == "tf32"):
                self._ceilings[dtype] = replace(measure_ceilings(self.device, number), dtype=dtype)
            self.free_memory()
        return self._ceilings[dtype]

    @property
    def dtype(self) -> str:
        """The transformer's number format."""
        return str(self.shapes.dtype).removeprefix("torch.")

    def floor_ms(self, cost: Cost, dtype: str | None = None) -> float:
        """The least milliseconds that so much work takes."""
        return 1000 * self.ceilings(dtype or self.dtype).limit(cost.flops, cost.bytes)[0]

    def time(self, run: Callable[[], object]) -> Timing:
        """Time a call."""
        taken: list[tuple[float, float]] = []
        synchronize(self.device)
        begun = time.perf_counter()
        while len(taken) < 4 or (len(taken) < _MOST and time.perf_counter() - begun < self.shapes.measure_s):
            started = time.perf_counter()
            run()
            returned = time.perf_counter()
            synchronize(self.device)
            taken.append((time.perf_counter() - started, returned - started))
        count = min(_IN_A_ROW, len(taken))
        started = time.perf_counter()
        for _ in range(count):
            run()
        synchronize(self.device)
        in_a_row = (time.perf_counter() - started) / count
        whole, host = (statistics.median(values) for values in zip(*taken[1:], strict=True))
        return Timing(*(round(1000 * each, 4) for each in (taken[0][0], whole, host, in_a_row)))


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Turn TF32 on or off, for matrix products and convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
