from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from echo.model.autoencoder import Autoencoder, AutoencoderConfig
from echo.model.autoencoder.pca import Pca
from echo.model.files.weights import load_autoencoder
from tests.closeness import assert_close

from .conftest import FOLDER

STAGE = 2e-4
RESULT = 1e-4


@pytest.fixture(scope="module")
def encoding(vectors: Any) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = vectors("ae_encode")
    return loaded


def audio(encoding: dict[str, Tensor], case: str) -> Tensor:
    return encoding[f"{case}.audio_int16"].float() / 32_768


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert_close(actual, expected, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_stages(autoencoder: Autoencoder, encoding: dict[str, Tensor]) -> None:
    seen: dict[str, Tensor] = {}
    projected: list[Tensor] = []

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    quantizer = autoencoder.quantizer
    levels = [*quantizer.semantic_quantizer.quantizers, *quantizer.quantizer.quantizers]
    hooks = [
        autoencoder.encoder.register_forward_hook(keep("encoder_out")),
        quantizer.downsample.register_forward_hook(keep("downsample_out")),
        quantizer.pre_module.register_forward_hook(keep("pre_out")),
        *(
            cast(nn.Module, level.in_proj).register_forward_hook(lambda m, i, output: projected.append(output))
            for level in levels
        ),
    ]
    autoencoder.encode(audio(encoding, "a"))
    for hook in hooks:
        hook.remove()
    for name, output in seen.items():
        close(output, encoding[f"a.{name}"], STAGE)
    close(torch.cat(projected, 1), encoding["a.z_e"], STAGE)


@pytest.mark.parametrize("case", ["a", "long"])
@torch.inference_mode()
def test_indices_quantized_vectors_and_latents(
    autoencoder: Autoencoder, pca: Pca, encoding: dict[str, Tensor], case: str
) -> None:
    z_q, indices = autoencoder.encode(audio(encoding, case))
    assert torch.equal(indices, encoding[f"{case}.indices"])
    close(z_q, encoding[f"{case}.z_q"], RESULT)
    close(pca.encode(z_q), encoding[f"{case}.latent"], RESULT)


@torch.inference_mode()
def test_pre_module_beyond_its_own_and_the_encoders_window(
    autoencoder: Autoencoder, encoding: dict[str, Tensor]
) -> None:
    outputs: list[Tensor] = []
    hook = autoencoder.quantizer.pre_module.register_forward_hook(lambda m, i, output: outputs.append(output))
    autoencoder.encode(audio(encoding, "long"))
    hook.remove()
    assert len(outputs) > 1  # in pieces, each continuing the one before
    close(torch.cat(outputs, -1), encoding["long.pre_out"], STAGE)


@pytest.mark.parametrize("max_piece", [1, 17, 1000])
@torch.inference_mode()
def test_the_piece_length_changes_nothing(
    autoencoder: Autoencoder, encoding: dict[str, Tensor], max_piece: int
) -> None:
    in_pieces = copy.copy(autoencoder)
    in_pieces.max_piece = max_piece
    z_q, indices = in_pieces.encode(audio(encoding, "a"))
    assert torch.equal(indices, encoding["a.indices"])
    close(z_q, encoding["a.z_q"], RESULT)


@torch.inference_mode()
def test_weight_norm_not_folded(golden_config: dict[str, Any], encoding: dict[str, Tensor]) -> None:
    config = AutoencoderConfig.from_dict(golden_config["ae"])
    path = FOLDER / "ae_weights.safetensors"
    unfolded = load_autoencoder(path, config, torch.device("cpu"), torch.float32, fold=False)
    z_q, indices = unfolded.encode(audio(encoding, "a"))
    assert torch.equal(indices, encoding["a.indices"])
    close(z_q, encoding["a.z_q"], RESULT)
