from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV
from echo.model.sampling.prefix import Prefix
from tests.closeness import assert_close

TOLERANCE = 1e-4
FORWARD_CASES = json.loads((Path(__file__).parent / "vectors" / "dit_forward.json").read_text())


@pytest.fixture(scope="module")
def stages(vectors: Any) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = vectors("dit_stages")
    return loaded


def close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert_close(actual, expected, rtol=0, atol=tolerance)


def expected_kv(stages: dict[str, Tensor], source: str, row: int, keys: int) -> Tensor:
    """The recorded caches of all layers, (B, n, H, d) each, in our layout."""
    layers = [torch.stack([stages[f"kv_{source}.{layer}.{part}"][row, :keys] for part in "kv"]) for layer in range(3)]
    return torch.stack(layers).transpose(2, 3)


def text_kv(dit: EchoDiT, stages: dict[str, Tensor], row: int) -> KV:
    return dit.encode_text(stages["text_ids"][row][stages["text_mask"][row]])


def speaker_kv(dit: EchoDiT, stages: dict[str, Tensor], row: int) -> KV:
    valid = int(stages["speaker_mask"][row].sum())
    return dit.encode_speaker(stages["speaker_latent"][row], valid)


@pytest.mark.parametrize("row", [0, 1])
def test_text_states_without_padding(dit: EchoDiT, stages: dict[str, Tensor], row: int) -> None:
    mask = stages["text_mask"][row]
    close(dit.text_norm(dit.text_encoder(stages["text_ids"][row][mask])), stages["text_state"][row][mask])


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("source", ["speaker", "latent"])
def test_latent_encoder_states(dit: EchoDiT, stages: dict[str, Tensor], source: str, row: int) -> None:
    expected = stages[f"{source}_state"][row]
    latents = stages["speaker_latent" if source == "speaker" else "prefix_latent"][row]
    encoder, norm = dit.get_submodule(f"{source}_encoder"), dit.get_submodule(f"{source}_norm")
    close(norm(encoder(latents.reshape(expected.shape[0], -1)).states), expected)


@pytest.mark.parametrize("row", [0, 1])
def test_text_keys_and_values(dit: EchoDiT, stages: dict[str, Tensor], row: int) -> None:
    kv = text_kv(dit, stages, row)
    close(kv, expected_kv(stages, "text", row, int(stages["text_mask"][row].sum())))


@pytest.mark.parametrize("row", [0, 1])
def test_speaker_keys_and_values_of_the_patches_whose_first_latent_is_valid(
    dit: EchoDiT, stages: dict[str, Tensor], row: int
) -> None:
    patches = int(stages["speaker_mask"][row][::4].sum())
    close(speaker_kv(dit, stages, row), expected_kv(stages, "speaker", row, patches))


@pytest.mark.parametrize("row", [0, 1])
def test_prefix_keys_and_values(dit: EchoDiT, stages: dict[str, Tensor], row: int) -> None:
    kv = Prefix(dit).append(stages["prefix_latent"][row]).kv
    assert kv is not None
    close(kv, expected_kv(stages, "latent", row, 12))


@pytest.mark.parametrize("cuts", [[8, 20, 48], [4, 48], [1, 2, 3, 4, 48], [5, 14, 32, 48], [6, 7, 21, 45, 48]])
def test_prefix_built_piece_by_piece(dit: EchoDiT, stages: dict[str, Tensor], cuts: list[int]) -> None:
    latents = stages["prefix_latent"][0]
    prefix = Prefix(dit)
    for begin, end in zip([0, *cuts[:-1]], cuts, strict=True):
        prefix = prefix.append(latents[begin:end])
    assert prefix.kv is not None
    assert prefix.length == 48
    close(prefix.kv, expected_kv(stages, "latent", 0, 12))


def case_sources(dit: EchoDiT, stages: dict[str, Tensor], case: dict[str, Any], row: int) -> list[KV]:
    sources = [] if case.get("text_masked_out") else [text_kv(dit, stages, row)]
    start = case["start_pos"] or 0
    if case["with_latent_cache"] and start:
        # The recorded cache is of a longer prefix that is really there; the encoder is causal, so the patches
        # that are seen are those of the whole, and the last one may hold latents beyond the start.
        seen = -(-start // 4)
        whole = Prefix(dit).append(stages["prefix_latent"][row]).kv
        assert whole is not None
        sources.append(whole[:, :, :, :seen])
    if not case.get("speaker_masked_out"):
        sources.append(speaker_kv(dit, stages, row))
    return sources


@pytest.mark.parametrize("case", FORWARD_CASES, ids=lambda case: str(case["case"]))
@pytest.mark.parametrize("together", [True, False], ids=["rows_together", "rows_alone"])
@torch.inference_mode()
def test_forward(dit: EchoDiT, vectors: Any, stages: dict[str, Tensor], case: dict[str, Any], together: bool) -> None:
    recorded, name, start = vectors("dit_forward"), case["case"], case["start_pos"] or 0
    x, times, expected = recorded[f"{name}.x"], recorded[f"{name}.t"], recorded[f"{name}.v"]
    modulation = dit.modulation(times.tolist())
    sources = [case_sources(dit, stages, case, row) for row in (0, 1)]
    contexts = dit.pack(sources, x.shape[1])
    if together:
        close(torch.stack(dit.velocity(x, modulation, contexts, [start, start])), expected)
    else:
        for row in (0, 1):
            alone = slice(row, row + 1)
            close(dit.velocity(x[alone], modulation[alone], contexts[alone], [start])[0], expected[row])


@torch.inference_mode()
def test_hidden_states_of_every_block(dit: EchoDiT, vectors: Any, stages: dict[str, Tensor]) -> None:
    expected, recorded = vectors("dit_hidden_case3"), vectors("dit_forward")
    parts = {"in_proj.out": "in_proj", "out_norm.out": "out_norm"}
    for i in range(3):
        parts |= {f"block{i}.attention": f"blocks.{i}.attention.wo", f"block{i}.mlp": f"blocks.{i}.mlp"}
        parts[f"block{i}.out"] = f"blocks.{i}"
    assert parts.keys() == expected.keys()
    seen: dict[str, Tensor] = {}

    def keep(key: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[key] = output

        return hook

    hooks = [dit.get_submodule(path).register_forward_hook(keep(key)) for key, path in parts.items()]
    contexts = dit.pack([case_sources(dit, stages, FORWARD_CASES[3], row) for row in (0, 1)], 8)
    dit.velocity(recorded["3.x"], dit.modulation(recorded["3.t"].tolist()), contexts, [12, 12])
    for hook in hooks:
        hook.remove()
    for key, value in expected.items():
        close(seen[key].view_as(value), value)  # the rows' latents follow one another


@pytest.fixture(scope="module")
def half(dit: EchoDiT) -> EchoDiT:
    model = EchoDiT(dit.config)
    model.load_state_dict(dit.state_dict())
    return model.bfloat16()


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@torch.inference_mode()
def bf16_case(model: EchoDiT, times: list[float], vectors: Any, stages: dict[str, Tensor]) -> Tensor:
    recorded = vectors("dit_bf16")
    start = int(recorded["start_pos"])
    case = {"start_pos": start, "with_latent_cache": True}
    contexts = model.pack([case_sources(model, stages, case, row) for row in (0, 1)], recorded["x"].shape[1])
    return torch.stack(model.velocity(recorded["x"], model.modulation(times), contexts, [start, start]))


def test_bfloat16_model_is_near_the_recorded_one(half: EchoDiT, vectors: Any, stages: dict[str, Tensor]) -> None:
    recorded = vectors("dit_bf16")
    v = bf16_case(half, recorded["t"].tolist(), vectors, stages)
    assert v.dtype is torch.float32
    assert relative_rms(v, recorded["v_bf16"]) < 0.03
    assert relative_rms(v, recorded["v_f32_t_rounded_to_bf16"]) < 0.03
    assert relative_rms(v, recorded["v_f32"]) > 0.1


def test_float32_model_with_rounded_and_exact_time(dit: EchoDiT, vectors: Any, stages: dict[str, Tensor]) -> None:
    recorded = vectors("dit_bf16")
    rounded = bf16_case(dit, recorded["t"].bfloat16().float().tolist(), vectors, stages)
    exact = bf16_case(dit, recorded["t"].tolist(), vectors, stages)
    close(rounded, recorded["v_f32_t_rounded_to_bf16"])
    close(exact, recorded["v_f32"])


def test_speaker_latents_that_fill_no_whole_patch_are_refused(dit: EchoDiT) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        dit.encode_speaker(torch.zeros(10, 80))


def test_speaker_without_valid_latents_gives_no_keys(dit: EchoDiT) -> None:
    assert dit.encode_speaker(torch.zeros(4, 80), 0).shape == (3, 2, 4, 0, 16)
