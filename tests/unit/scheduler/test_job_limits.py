import pytest
import torch

from echo.engines.load import job_limits, resident_bytes
from echo.settings import load_settings

CPU = torch.device("cpu")


def test_the_operator_s_memory_budget_holds_and_else_there_is_a_default() -> None:
    assert job_limits(load_settings({"ECHO_KV_BUDGET_MB": "100"}), CPU, 8).max_bytes == 100 * 2**20
    assert job_limits(load_settings({}), CPU, 8).max_bytes == 4096 * 2**20


def test_a_cpu_takes_small_steps_of_blocks_of_one_size() -> None:
    limits = job_limits(load_settings({}), CPU, 8)
    assert limits.max_jobs == 8
    assert limits.max_row_latents == 384
    assert not limits.mix_sizes


@pytest.mark.parametrize(
    ("free_gib", "given", "voices_mib", "budget_mib"),
    [
        (10, {}, 512, 0.6 * (10 * 1024 - 512)),
        (1, {}, 256, 0.6 * (1024 - 256)),
        (10, {"ECHO_CACHE_SPEAKER_ON_GPU": "0"}, 0, 0.6 * 10 * 1024),
        (10, {"ECHO_KV_BUDGET_MB": "700", "ECHO_VOICE_CACHE_BYTES": str(2**20)}, 1, 700),
    ],
)
def test_a_gpu_s_free_memory_is_shared_by_utterances_and_voices(
    free_gib: int, given: dict[str, str], voices_mib: float, budget_mib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_gib * 2**30, 80 * 2**30))
    cuda, settings = torch.device("cuda:1"), load_settings(given)
    assert resident_bytes(settings, cuda) == voices_mib * 2**20
    limits = job_limits(settings, cuda, 128)
    assert limits.max_bytes == int(budget_mib * 2**20)
    assert limits.mix_sizes
