from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.streaming import StreamingDecoder
from tests.closeness import assert_close

STAGE = 2e-4
AUDIO = 1e-4


@pytest.fixture(scope="module")
def decoding(vectors: Any) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = vectors("ae_decode")
    return loaded


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert_close(actual, expected, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_stages(autoencoder: Autoencoder, pca: Pca, decoding: dict[str, Tensor]) -> None:
    seen: dict[str, Tensor] = {}
    stages: dict[str, nn.Module] = {
        "post_out": autoencoder.quantizer.post_module,
        "upsample0_out": autoencoder.quantizer.upsample[0],
        "upsample_out": autoencoder.quantizer.upsample,
        "decoder0_out": autoencoder.decoder.model[0],
        "decoder1_out": autoencoder.decoder.model[1],
    }

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, cast(Tensor, output))

    hooks = [module.register_forward_hook(keep(name)) for name, module in stages.items()]
    z_q = pca.decode(decoding["a.latent"])
    close(z_q, decoding["a.z_q"], STAGE)
    autoencoder.decode_zq(z_q)
    for hook in hooks:
        hook.remove()
    for name in stages:
        close(seen[name], decoding[f"a.{name}"], STAGE)


@torch.inference_mode()
def test_post_module_far_beyond_its_window(autoencoder: Autoencoder, pca: Pca, decoding: dict[str, Tensor]) -> None:
    outputs: list[Tensor] = []
    hook = autoencoder.quantizer.post_module.register_forward_hook(lambda m, i, output: outputs.append(output))
    autoencoder.decode_zq(pca.decode(decoding["b.latent"]))
    hook.remove()
    close(torch.cat(outputs, -1), decoding["b.post_out"], STAGE)


@pytest.mark.parametrize("case", ["a", "b"])
@torch.inference_mode()
def test_audio_from_latents(autoencoder: Autoencoder, pca: Pca, decoding: dict[str, Tensor], case: str) -> None:
    close(autoencoder.decode_zq(pca.decode(decoding[f"{case}.latent"])), decoding[f"{case}.audio"], AUDIO)


@torch.inference_mode()
def test_audio_from_codes(autoencoder: Autoencoder, decoding: dict[str, Tensor]) -> None:
    close(autoencoder.decode(decoding["codes.indices"]), decoding["codes.audio"], AUDIO)


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("pieces", [[1, 5, 24], [10, 10, 10], [29, 1]])
def test_audio_of_a_stream(
    autoencoder: Autoencoder, pca: Pca, decoding: dict[str, Tensor], case: str, pieces: list[int]
) -> None:
    decoder = StreamingDecoder(autoencoder, pca)
    latents = decoding[f"{case}.latent"]
    for row in range(latents.shape[0]):
        state = decoder.start()
        audio = []
        for piece in latents[row].split([*pieces, latents.shape[1] - sum(pieces)] if case == "b" else pieces):
            samples, state = decoder.decode(state, piece)
            audio.append(torch.from_numpy(samples))
        close(torch.cat(audio), decoding[f"{case}.audio"][row, 0], AUDIO)
