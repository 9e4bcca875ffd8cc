"""The Kubernetes manifests: each fits its schema, and they fit together, the server and what it measures.

Kubernetes' own kinds: its published schemas (kubernetes-validate), strict. The two custom resources: models made from
the definitions of their projects (cloudcoil).
"""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel

from api_server import create_app
from echo.settings import load_settings, unknown_variables
from echo.telemetry import Metrics
from tests.processes import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy" / "kubernetes"
#: A release from before all of these kinds' last changes, and the newest that there are schemas of.
KUBERNETES = ("1.29", kubernetes_validate.latest_version())
#: Seconds that the process may take after the grace, and some that it never needs (docs/operations.md).
END_S, SPARE_S = 10, 5


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


KUSTOMIZATION = read("kustomization.yaml")[0]
MANIFESTS = {
    f"{one['kind']} {one['metadata']['name']}": one for name in KUSTOMIZATION["resources"] for one in read(name)
}
POD = MANIFESTS["Deployment echo-tts"]["spec"]["template"]
(SERVER,) = POD["spec"]["containers"]
SCALING = MANIFESTS["ScaledObject echo-tts"]["spec"]


def custom_resource(kind: str) -> type[BaseModel] | None:
    """The model of a kind that is not Kubernetes' own. Imported late: each takes a second."""
    if kind == "ServiceMonitor":
        from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

        return ServiceMonitor
    if kind == "ScaledObject":
        from cloudcoil.models.keda.v1alpha1 import ScaledObject

        return ScaledObject
    return None


def check(manifest: dict[str, Any]) -> None:
    """Raise an error if the manifest is not what its kind allows."""
    if model := custom_resource(manifest["kind"]):
        understood = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert {**manifest, **understood} == manifest, "something in it is unknown"
        assert understood["spec"] == manifest["spec"], "something in it is unknown"
    else:
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_it_fits_its_schema(name: str) -> None:
    check(MANIFESTS[name])


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_schema_sees_a_misspelt_field(name: str) -> None:
    wrong = {**MANIFESTS[name], "spec": {**MANIFESTS[name]["spec"], "minAvailible": 1}}
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check(wrong)


def test_every_manifest_is_applied() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    assert SERVER["image"].split(":")[0] in [image["name"] for image in KUSTOMIZATION["images"]]


def test_the_selectors_find_the_pods() -> None:
    labels = POD["metadata"]["labels"]
    service = MANIFESTS["Service echo-tts"]
    assert MANIFESTS["Deployment echo-tts"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["PodDisruptionBudget echo-tts"]["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert MANIFESTS["ServiceMonitor echo-tts"]["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    (endpoint,) = MANIFESTS["ServiceMonitor echo-tts"]["spec"]["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert SCALING["scaleTargetRef"]["name"] == MANIFESTS["Deployment echo-tts"]["metadata"]["name"]


def test_the_volumes_are_those_of_the_image() -> None:
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    mounted = {mount["mountPath"]: mount["name"] for mount in SERVER["volumeMounts"]}
    volumes = re.findall(r'"(/\w+)"', image.split("\nVOLUME ")[1].split("\n")[0])
    # No jobs: their folder is one server's own.
    assert {*volumes, "/tmp", "/config"} == {*mounted, "/jobs"}
    declared = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert set(mounted.values()) == set(declared)
    # Without a secret there are no such files. Mounted as a folder, so that a new file of keys is seen.
    assert declared["config"]["secret"]["optional"] is True
    assert "subPath" not in str(SERVER["volumeMounts"])
    for volume in declared.values():
        if claim := volume.get("persistentVolumeClaim"):
            assert f"PersistentVolumeClaim {claim['claimName']}" in MANIFESTS
    assert (
        f"\nUSER {POD['spec']['securityContext']['runAsUser']}:{POD['spec']['securityContext']['runAsGroup']}\n"
        in image
    )
    assert f"\nEXPOSE {SERVER['ports'][0]['containerPort']}\n" in image


def test_a_pod_has_time_for_its_streams() -> None:
    given = {one["name"]: one["value"] for one in SERVER["env"]}
    assert not unknown_variables(given)
    settings = load_settings(given)
    needed = settings.drain_s + settings.shutdown_grace_s + END_S + SPARE_S
    assert POD["spec"]["terminationGracePeriodSeconds"] >= needed
    probe = SERVER["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings.drain_s  # taken out before it refuses


def test_probes_ask_what_the_server_has() -> None:
    paths = create_app(load_settings({})).openapi()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert SERVER[probe]["httpGet"]["path"] in paths
        assert SERVER[probe]["httpGet"]["port"] == SERVER["ports"][0]["name"]
    (hook,) = re.findall(r"http://127\.0\.0\.1:8000(/[\w/]+)", SERVER["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert "post" in paths[hook]


def test_it_scales_by_figures_that_the_server_has() -> None:
    names = {family.name for family in Metrics().registry.collect()}
    for trigger in SCALING["triggers"]:
        assert re.findall(r"\becho_\w+", trigger["metadata"]["query"])
        assert set(re.findall(r"\becho_\w+", trigger["metadata"]["query"])) <= names
    assert "echo_waiting_utterances" in SCALING["triggers"][0]["metadata"]["query"]
