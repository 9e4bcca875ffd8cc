"""The dashboard, the alerts and the page of metrics belong together: checked by Prometheus itself."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from echo.engines.load import load_engine
from echo.settings import Settings
from tests.contract.clock import Clock
from tests.contract.monitoring.promql import metrics_of
from tests.contract.serving import Served, serving
from tests.processes import PATIENCE_S, ROOT, LoggedProcess, eventually, free_port

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
#: Prometheus' own.
ITS_OWN = {"up", "ALERTS"}
#: What an engine on a CPU, in the server's own process, has not.
ELSEWHERE = re.compile(r"echo_device_memory_\w+|echo_engine_(process_bytes|restarts_total)")
#: Alerts that a machine which stands still for some seconds may bring near.
OF_THE_MACHINE = {"EchoDown", "EchoSlowFirstAudio", "EchoUnderruns"}
QUICK = ROOT / "tests" / "e2e" / "quick_presets.toml"


def promtool(*arguments: object, page: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Debian's promtool; `make packages` installs it."""
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, input=page, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every expression of the dashboard, with all jobs, servers and models chosen."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [re.sub(r"\$(job|instance|model)\b", ".*", each).replace("$__rate_interval", "30s") for each in found]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def speak(served: Served, **fields: object) -> None:
    body = {"input": "Hello there.", "response_format": "pcm", **fields}
    httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=PATIENCE_S).raise_for_status()


def hang_up(served: Served) -> None:
    """Ask for a long text and leave at its first audio."""
    body = {"input": "Nobody is going to hear this to its end. " * 20, "response_format": "pcm"}
    with httpx.stream("POST", f"{served.url}/v1/audio/speech", json=body, timeout=PATIENCE_S) as response:
        next(response.iter_raw())


@pytest.fixture(scope="module")
def tiny(voices_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the embedded model."""
    settings = Settings(
        model_repo="tiny",
        device="cpu",
        voices_dir=(str(voices_dir),),
        presets_file=QUICK,
        jobs_dir=str(tmp_path_factory.mktemp("jobs")),
    )
    with serving(settings, load_engine) as served:
        served.wait_ready()
        speak(served)
        yield served


@pytest.fixture(scope="module")
def page(tiny: Served) -> str:
    """The page of metrics after a request."""
    return httpx.get(f"{tiny.url}/metrics").text


@pytest.fixture(scope="module")
def names(page: str) -> set[str]:
    """All names on that page, those without a value yet too."""
    samples = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
    return samples | set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))


def test_every_expression_of_the_dashboard_names_what_the_server_has(names: set[str]) -> None:
    chosen = [variable["definition"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    asked = {re.sub(r"label_values\((.*), \w+\)", r"\1", each) for each in chosen}
    annotations = [each["expr"] for each in DASHBOARD["annotations"]["list"] if "expr" in each]
    read = {name for each in (*expressions(), *asked, *annotations) for name in metrics_of(each)}
    assert len(read) > 20
    assert read - names - ITS_OWN == set()


def test_every_alert_names_what_the_server_has(names: set[str]) -> None:
    read = {name for alert in alerts() for name in metrics_of(alert["expr"])}
    assert read - names - ITS_OWN == set()


def test_the_names_of_an_expression_are_found() -> None:
    expression = 'sum by (le, a) (rate(x_bucket{b="c d"}[5m])) / on (e) y > 0.05 and (z offset 5m or up == +Inf)'
    assert metrics_of(expression) == {"x_bucket", "y", "z", "up"}


def test_the_page_is_as_prometheus_wants_it(page: str) -> None:
    checked = promtool("check", "metrics", page=page)
    # The names of the field end in _s, where Prometheus would have _seconds.
    complaints = {line.partition(" ")[0].removesuffix("_created") for line in checked.stderr.splitlines()}
    assert complaints == {"audio_ttfp_s", "audio_duration_s", "audio_underrun_s", "e2e_request_latency_s"}, checked


def test_everything_is_counted_per_model(page: str) -> None:
    speech = [
        sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if re.match(
            r"audio_|num_requests|request|e2e_|echo_(requests|failures|blocks|rerolls|first|cancel|kv)", sample.name
        )
    ]
    assert len({sample.name for sample in speech}) > 25
    assert {sample.labels.get("model_name") for sample in speech} == {"echo-tiny"}


def test_configuration_and_rules_are_valid() -> None:
    config = promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert config.returncode == 0, config
    rules = promtool("check", "rules", "--lint-fatal", RULES)
    assert rules.returncode == 0, rules


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    cases = Path(__file__).with_name("alerts.test.yml")
    tested = promtool("test", "rules", cases)
    assert tested.returncode == 0, tested
    names = {
        alert["alertname"] for case in yaml.safe_load(cases.read_text())["tests"] for alert in case["alert_rule_test"]
    }
    assert names == {alert["alert"] for alert in alerts()}


def test_the_dashboard_is_whole() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = {
        (p["gridPos"]["x"] + dx, p["gridPos"]["y"] + dy)
        for p in everything
        for dx in range(p["gridPos"]["w"])
        for dy in range(p["gridPos"]["h"])
    }
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in everything)  # none overlap
    for panel in panels():
        assert panel["description"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
        "model",
    ]


@pytest.fixture
def prometheus(tiny: Served, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus with our configuration, that looks every second; its address."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{tiny.port}"]}]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=file,
            stderr=file,
        )
    url = f"http://127.0.0.1:{port}"
    with LoggedProcess(process, log) as running:

        def ready() -> bool:
            assert running.running, running.log
            try:
                return httpx.get(f"{url}/-/ready").is_success
            except httpx.TransportError:
                return False

        eventually(ready, "Prometheus", pause_s=0.1)
        yield url


def query(url: str, expression: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=PATIENCE_S).json()
    assert answer["status"] == "success", (expression, answer)
    assert not answer.get("warnings"), (expression, answer)
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def test_a_real_prometheus_fills_the_dashboard(tiny: Served, prometheus: str, clock: Clock) -> None:
    clock.run()
    with socket.create_connection(("127.0.0.1", tiny.port)):  # to be ended, because it says nothing
        assert httpx.post(f"{tiny.url}/v1/audio/speech", json={"input": ""}).status_code == 400
        eventually(lambda: bool(query(prometheus, "count_over_time(up[1m]) > 1")), "two looks", pause_s=0.2)
        speak(tiny)
        hang_up(tiny)
        clock.jump(60)
        ended = 'echo_ended_connections_total{reason="silent"}'
        eventually(lambda: bool(query(prometheus, f"count_over_time({ended}[1m]) > 1")), "its end", pause_s=0.2)
    cancelled = "increase(echo_cancel_seconds_count[1m]) > 0"
    eventually(lambda: bool(query(prometheus, cancelled)), "the hang-up", pause_s=0.2)
    for expression in expressions():
        # Nothing is found while the last look has failed: the server has a second to answer it.
        eventually(lambda e=expression: bool(query(prometheus, e) or ELSEWHERE.search(e)), expression, pause_s=0.2)
    p95 = "histogram_quantile(0.95, sum by (le) (rate(echo_first_frame_seconds_bucket[5m])))"
    eventually(lambda: any(math.isfinite(float(each["value"][1])) for each in query(prometheus, p95)), p95, pause_s=0.2)
    eventually(lambda: bool(query(prometheus, "echo_ready == 1")), "readiness", pause_s=0.2)
    rules = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert len(rules) == len(alerts())
    assert {rule["health"] for rule in rules} == {"ok"}
    assert not [rule["name"] for rule in rules if rule["state"] == "firing"]
    assert not [rule["name"] for rule in rules if rule["state"] != "inactive" and rule["name"] not in OF_THE_MACHINE]
