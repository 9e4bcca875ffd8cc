"""compose.yaml against the schema of the Compose Specification, and against the image and the files that it names."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml

from echo.settings import load_settings, unknown_variables
from tests.processes import ROOT

#: The Compose Specification's own schema, as check-jsonschema brings it.
SCHEMA = json.loads(
    (resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text(
        encoding="utf-8"
    )
)
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVERS = {name: service for name, service in COMPOSE["services"].items() if name.startswith("server-")}


def check(value: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(value)


def test_it_fits_the_specification() -> None:
    check(COMPOSE)


def test_the_schema_sees_a_misspelt_field() -> None:
    with pytest.raises(jsonschema.ValidationError, match="volumnes"):
        check({**COMPOSE, "services": {"server": {**SERVERS["server-cpu"], "volumnes": []}}})


def test_a_server_for_each_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(SERVERS) == {"server-cpu", "server-gpu"}
    for name, service in SERVERS.items():
        assert service["profiles"] == [name.removeprefix("server-")]
        assert f"\nFROM runtime{'-gpu' * (name == 'server-gpu')} AS {service['build']['target']}\n" in dockerfile
        assert service["read_only"] is True
        mounted = {re.split(r":(?=/)", mount)[1] for mount in service["volumes"]}
        assert mounted == {"/voices", "/cache", "/models", "/jobs", "/config:ro"}
        assert not unknown_variables(service["environment"])
        assert service["networks"]["default"]["aliases"] == ["server"]


def test_a_server_has_time_for_its_streams() -> None:
    settings = load_settings({})
    needed = settings.drain_s + settings.shutdown_grace_s + 10
    for service in SERVERS.values():
        assert float(service["stop_grace_period"].removesuffix("s")) > needed


def test_what_is_in_the_file_of_settings_fits_compose_and_the_server() -> None:
    """Compose reads .env for its own variables, and the server gets all of them."""
    own = re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert own
    assert not unknown_variables(own)
    for service in SERVERS.values():
        # A .env that was written for a server without a container may have other ones.
        published = service["ports"][0].rpartition(":")[2]
        assert {**service["environment"], "HOST": "0.0.0.0", "PORT": published} == service["environment"]


def test_keys_are_mounted_with_their_folder() -> None:
    """A file that is mounted alone stays the old one when a new one takes its place."""
    for service in SERVERS.values():
        (mount,) = [mount for mount in service["volumes"] if mount.endswith(":/config:ro")]
        folder = ROOT / re.sub(r"^\$\{\w+:-(.*)\}:/config:ro$", r"\1", mount)
        assert folder.is_dir()
        assert (folder / ".gitignore").read_text(encoding="utf-8").startswith("*\n")
    assert not re.search(r"-v \S*\.toml:", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"))


def test_only_this_machine_reaches_what_it_publishes() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_named_volume_is_declared_and_every_file_is_here() -> None:
    mounts = [mount for service in COMPOSE["services"].values() for mount in service["volumes"]]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith((".", "$"))}
    named |= set(re.findall(r":-(\w+)\}:/", " ".join(mount for mount in mounts if mount.startswith("$"))))
    assert named == set(COMPOSE["volumes"])
    for mount in mounts:
        if mount.startswith("./"):
            assert (ROOT / mount.split(":")[0]).exists(), mount


def test_grafana_finds_prometheus_and_its_dashboards() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "echo-tts.yml").read_text())["providers"]
    mounts = COMPOSE["services"]["grafana"]["volumes"]
    assert any(mount.split(":")[1].startswith(provider["options"]["path"] + "/") for mount in mounts)
