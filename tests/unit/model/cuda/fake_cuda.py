"""Tensors on a CUDA device that is not there: the released model runs at full size, in shapes alone.

torch's fake tensors have a device, a dtype and a shape, and no data. What needs data on the host raises; what mixes
devices or dtypes raises as on the device. ``Kernels`` counts what would be launched, and raises ``HiddenSync`` for a
copy that would make the host wait.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from echo.model.autoencoder import RELEASED, Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.files.weights import LoadedEcho
from echo.model.network.config import ECHO_TTS_BASE
from echo.model.network.dit import EchoDiT
from echo.model.network.layers import Rotary
from echo.model.sampling import sampler as sampler_module

M = TypeVar("M", bound=nn.Module)

CUDA = torch.device("cuda", 0)
#: ``c10::DeviceType``: CUDA and Meta.
_CUDA_INDEX, _META_INDEX = 1, 14
_COPIES = frozenset({"to", "_to_copy", "copy_"})
#: Operators that launch nothing: they make or look at tensors.
_FREE = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh", "unbind", "chunk"}
)


class HiddenSync(AssertionError):
    """A copy between host and device that the host waits for."""


class Kernels(TorchDispatchMode):
    """Counts the operators that launch a kernel on the device; raises HiddenSync for a blocking copy."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()
        #: False while a model is loaded and warmed up, when waiting is no harm.
        self.strict = True
        self._pinned: dict[int, Tensor] = {}

    @property
    def count(self) -> int:
        """Kernels so far."""
        return self.by_name.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in {"pin_memory", "_pin_memory"}:
            return self._pin(args[0].clone())
        pinned = bool(kwargs.pop("pin_memory", False))
        result = func(*args, **kwargs)
        if pinned:
            self._pin(result)
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        if name in _COPIES and self.strict:
            self._check_copy(name, given, result)
        if _launches(func, name, given, result):
            self.by_name[name] += 1
        return result

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned[tensor.untyped_storage()._cdata] = tensor  # kept, so that no address is used twice
        return tensor

    def _check_copy(self, name: str, given: Mapping[str, Any], result: Tensor) -> None:
        source = given.get("src", given["self"])
        if source.device.type == result.device.type:
            return
        way = f"{name} from {source.device} to {result.device}"
        if not given.get("non_blocking"):
            raise HiddenSync(f"{way} blocks the host")
        host = source if source.device.type == "cpu" else result
        if host.untyped_storage()._cdata not in self._pinned:
            raise HiddenSync(f"{way} goes through pageable memory")


def _launches(func: Any, name: str, given: Mapping[str, Any], result: Any) -> bool:
    if func.is_view or name in _FREE or not _on_device(result):
        return False
    # ``type_as``, ``reshape`` and the like return their input where there is nothing to do.
    return result is not given.get("self") or name.endswith("_") or "out" in given


def _on_device(result: Any) -> bool:
    tensors = result if isinstance(result, (tuple, list)) else (result,)
    return any(isinstance(each, Tensor) and each.device.type == "cuda" for each in tensors)


class FakeCuda:
    """Where fake tensors live; entered again, it finds those of before."""

    def __init__(self) -> None:
        _allow_cuda_tensors()
        self._mode = FakeTensorMode()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Kernels]:
        """Everything inside is fake, in inference mode; yields the counter."""
        with self._mode, torch.inference_mode(), Kernels() as kernels:
            yield kernels


@contextlib.contextmanager
def at_most(count: int, kernels: Kernels) -> Iterator[None]:
    """Assert that no more kernels are launched inside, and not far fewer: the bound would then guard nothing."""
    before = kernels.by_name.copy()
    yield
    found = kernels.by_name - before
    assert 0.8 * count <= found.total() <= count, f"{found.total()} kernels: {found.most_common(12)}"


def _allow_cuda_tensors() -> None:
    """Give a torch without CUDA what it lacks for indexing fake tensors: a device guard, here one that does nothing."""
    library = next((Path(torch.__file__).parent / "lib").glob("*c10.*"))
    guards = (ctypes.c_void_p * (_META_INDEX + 1)).in_dll(
        ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE"
    )
    guards[_CUDA_INDEX] = guards[_CUDA_INDEX] or guards[_META_INDEX]


def fake_runtime(patch: pytest.MonkeyPatch) -> None:
    """Stand-ins for streams and events, and real numbers where the host computes a schedule or draws noise."""

    def event(**options: Any) -> SimpleNamespace:
        return SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)

    patch.setattr(torch.cuda, "Event", event)
    patch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    patch.setattr(sampler_module, "make_schedule", _on_host(sampler_module.make_schedule))


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with unset_fake_temporarily(), torch._C._DisableTorchDispatch():
            return function(*arguments)

    return call


def released(device: torch.device = CUDA) -> LoadedEcho:
    """The released model without data, as the loader leaves it."""
    dit = without_data(lambda: EchoDiT(ECHO_TTS_BASE), device, torch.bfloat16).fuse()
    autoencoder = without_data(lambda: Autoencoder(RELEASED).fold_weight_norm(), device, torch.float32)
    return LoadedEcho(dit, autoencoder, pca_without_data(RELEASED.latent_dim, device), {})


def without_data(build: Callable[[], M], device: torch.device, dtype: torch.dtype) -> M:
    """A module whose parameters and tables are fake tensors."""
    there = torch.device("meta")
    with unset_fake_temporarily(), torch._C._DisableTorchDispatch(), torch.inference_mode(False), there:
        module = build()
    _fill(module, device, dtype)
    return module


def pca_without_data(dim: int, device: torch.device) -> Pca:
    """A PCA of fake tensors."""
    components = torch.empty(ECHO_TTS_BASE.latent_size, dim, device=device)
    return Pca(components, torch.empty(dim, device=device), 1.0)


def _fill(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Put fake tensors in the place of all parameters and tables."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            fake = torch.empty(value.shape, dtype=dtype, device=device)
            setattr(module, name, nn.Parameter(fake, requires_grad=False))
        for name, value in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(value.shape, dtype=value.dtype, device=device))
        if isinstance(rotary := getattr(module, "rotary", None), Rotary):
            module.rotary = Rotary(2 * len(rotary._frequencies))
    model.eval()
