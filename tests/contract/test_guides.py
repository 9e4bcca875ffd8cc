"""The guides of CONTRIBUTING.md, walked on real files; the one for an engine is walked in example_engine."""

from pathlib import Path

import httpx

from echo.settings import HOME
from tests.contract.serving import PATIENCE_S, Serve

PRESET = """
[echo.quick]
block_sizes = [16, 64]
num_steps = 4
cfg_scale_text = 2.0
"""


def test_a_preset_is_a_table_in_presets_toml(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "presets.toml"
    file.write_text((HOME / "presets.toml").read_text(encoding="utf-8") + PRESET, encoding="utf-8")
    server = serve(presets_file=file)
    body = {"input": "Hello there.", "voice": "anna", "preset": "quick"}
    answer = httpx.post(server.url + "/v1/audio/speech", json=body, timeout=PATIENCE_S, verify=False)
    assert answer.status_code == 200
    plan = server.script.spoken[-1].plan
    assert [(block.size, block.steps) for block in plan.blocks] == [(16, 4), (64, 4)]
    assert (plan.params.cfg_scale_text, plan.params.cfg_scale_speaker) == (2.0, 8.0)  # the rest from [echo.default]
