"""packaging/kubernetes and docs/kubernetes.md: rendered, and held to the schemas of Kubernetes.
Nothing here was tried on a cluster."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from control.service import SETTINGS
from tests.kit.support import ROOT

FOLDER = ROOT / "packaging/kubernetes"
OVERLAYS = ("base", "postgresql", "cert-manager")
VERSIONS = ("1.31", "1.37")  # the oldest with all that is used, the newest that is known
OWN = {"apps/v1", "v1", "networking.k8s.io/v1"}  # the API's own; others bring their own schemas
IMAGES = {"certauth-control", "certauth-server"}
Thing = dict[str, Any]
# A megabyte of JSON each time otherwise.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


# ---- Rendering -----------------------------------------------------------------------------------


def documents(text: str) -> list[Thing]:
    return [one for one in yaml.safe_load_all(text) if one]


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as our patches need one: lists of what has a name are merged."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {key: merged(base[key], patch[key]) for key in base.keys() & patch.keys()}
        return {**base, **patch, **both}
    if isinstance(base, list) and isinstance(patch, list):
        key = "mountPath" if patch and "mountPath" in patch[0] else "name"
        found = {one[key]: one for one in base}
        return list(
            {**found, **{one[key]: merged(found.get(one[key]), one) for one in patch}}.values()
        )
    return patch


def rendered(folder: Path) -> list[Thing]:
    """What kustomize makes of a folder, but for labels and image tags."""
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[Thing] = []
    for name in said.get("resources", []):
        path = folder / name
        found += rendered(path) if path.is_dir() else documents(path.read_text())
    for one in said.get("patches", []):
        patch = yaml.safe_load((folder / one["path"]).read_text())
        found = [merged(thing, patch) if same(thing, patch) else thing for thing in found]
    for thing in found:
        if thing["kind"] != "Namespace":
            thing["metadata"]["namespace"] = said["namespace"]
    return found


def same(one: Thing, other: Thing) -> bool:
    return (one["kind"], one["metadata"]["name"]) == (other["kind"], other["metadata"]["name"])


@cache
def overlay(name: str) -> tuple[Thing, ...]:
    return tuple(rendered(FOLDER / name))


def assert_valid(thing: Thing, version: str) -> None:
    kubernetes_validate.validate(json.loads(json.dumps(thing)), version, strict=True)


# ---- The base and its overlays -------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_what_is_applied_is_of_the_api(name: str, version: str) -> None:
    """Each field is one, and of the right type."""
    for thing in overlay(name):
        if thing["apiVersion"] in OWN:
            assert_valid(thing, version)
        else:
            assert thing["apiVersion"] == "cert-manager.io/v1"


def test_the_schema_refuses_what_is_none() -> None:
    thing = json.loads(json.dumps(overlay("base")[1]))
    thing["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        assert_valid(thing, VERSIONS[-1])


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kustomize renders it: no kubectl here")
@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_renders_the_same(name: str) -> None:
    """But for labels and tags."""
    text = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True,
                          check=True).stdout  # fmt: skip
    by_kustomize = {(one["kind"], one["metadata"]["name"]): one for one in documents(text)}
    ours = {(one["kind"], one["metadata"]["name"]): one for one in overlay(name)}
    assert by_kustomize.keys() == ours.keys()
    for key, one in by_kustomize.items():
        if key[0] == "StatefulSet":
            (container,) = one["spec"]["template"]["spec"]["containers"]
            image, _, container["image"] = *container["image"].partition(":")[:2], None
            assert image in IMAGES
            (other,) = ours[key]["spec"]["template"]["spec"]["containers"]
            assert by_name(container, "env") == by_name(other, "env")
            assert by_name(container, "volumeMounts") == by_name(other, "volumeMounts")
            assert container.keys() == other.keys()
        else:
            assert one.get("spec") == ours[key].get("spec")


def by_name(container: Thing, field: str) -> dict[str, Thing]:
    return {one["name"]: one for one in container.get(field, [])}


def pods(things: tuple[Thing, ...]) -> Iterator[tuple[Thing, Thing, Thing]]:
    """Each StatefulSet, its pod's spec, and the one container of that."""
    for thing in things:
        if thing["kind"] == "StatefulSet":
            pod = thing["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            yield thing, pod, container


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_have_no_rights(name: str) -> None:
    """What the namespace's level `restricted` demands, and no token, no writable root either."""
    assert len(list(pods(overlay(name)))) == 2
    for _, pod, container in pods(overlay(name)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 999
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@pytest.mark.parametrize("name", OVERLAYS)
def test_whatever_is_named_is_there(name: str) -> None:
    """Volumes, ports of probes, Services and policies; variables are settings; no secret is for
    everybody."""
    things = overlay(name)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one, _, _ in pods(things)]
    ports = {port["name"] for _, _, container in pods(things) for port in container["ports"]}
    for thing, pod, container in pods(things):
        volumes = {one["name"]: one for one in pod["volumes"]}
        claims = {one["metadata"]["name"] for one in thing["spec"]["volumeClaimTemplates"]}
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted == volumes.keys() | claims
        for volume in volumes.values():
            for kind in ("secret", "projected"):
                assert volume.get(kind, {"defaultMode": 0o440})["defaultMode"] == 0o440
        for one in container.get("env", []):
            setting = one["name"].removeprefix("CERTAUTH_").lower()
            assert (
                setting in SETTINGS
                or one["name"] in (ROOT / "packaging/control-entrypoint").read_text()
            )
            if one["name"].endswith("_FILE"):
                assert Path(one["value"]).parent.as_posix() in {
                    mount["mountPath"] for mount in container["volumeMounts"]
                }
        services = [one["metadata"]["name"] for one in things if one["kind"] == "Service"]
        assert thing["spec"]["serviceName"] in services
        assert container["image"] in IMAGES
    for thing in things:
        if thing["kind"] == "Service":
            assert thing["spec"]["selector"] in labels
            assert {one["targetPort"] for one in thing["spec"]["ports"]} <= ports
        if thing["kind"] == "NetworkPolicy" and (chosen := thing["spec"]["podSelector"]):
            assert chosen["matchLabels"] in labels


def test_nobody_reaches_anybody_unless_it_is_said() -> None:
    (deny,) = (one for one in overlay("base") if one["metadata"]["name"] == "certauth-nobody")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_server_finds_what_its_image_expects() -> None:
    """The files of /tls, the volumes, and the health check, as docs/images.md has them."""
    (_, pod, container) = list(pods(overlay("base")))[1]
    (tls,) = (one["projected"] for one in pod["volumes"] if one["name"] == "tls")
    paths = {
        item["path"] for one in tls["sources"] for kind in one.values() for item in kind["items"]
    }
    configuration = (ROOT / "Dockerfile").read_text()
    assert paths == set(re.findall(r"/tls/([\w.]+)", configuration))
    places = {one["mountPath"] for one in container["volumeMounts"]}
    assert places == {"/data", "/var/lib/certauth", "/tls", "/run/certauth"}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"][0] == "certauth-health"


def test_the_component_brings_the_module() -> None:
    """Into a StatefulSet that has a container of the name `server`."""
    patch = yaml.safe_load((FOLDER / "module/module.yaml").read_text())
    theirs = {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "any"},
        "spec": {
            "serviceName": "x", "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "server", "image": "x", "volumeMounts": [
                    {"name": "data", "mountPath": "/data"}]}],
                    "volumes": [{"name": "data", "emptyDir": {}}]},
            },
        },
    }  # fmt: skip
    thing = merged(theirs, patch)
    for version in VERSIONS:
        assert_valid(thing, version)
    pod = thing["spec"]["template"]["spec"]
    assert [one["name"] for one in pod["volumes"]] == ["data", "certauth", "certauth-bootstrap"]
    assert [one["mountPath"] for one in pod["containers"][0]["volumeMounts"]] == [
        "/data", "/certauth", "/certauth-bootstrap",
    ]  # fmt: skip


# ---- The page ------------------------------------------------------------------------------------

PAGE = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
THEIRS = {
    "cert-manager.io/v1", "trust.cert-manager.io/v1alpha1", "valkey.io/v1alpha1",
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_what_the_page_shows_is_of_the_api(number: str) -> None:
    """Objects of Kubernetes by its schema; the pieces of a pod in a chart's values as a pod's."""
    (shown,) = documents(BLOCKS[int(number)])
    if "apiVersion" not in shown:  # values of a chart
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {
                "initContainers": shown["extraInitContainers"],
                "containers": [
                    {"name": "x", "image": "x", "volumeMounts": shown["extraVolumeMounts"]}
                ],
                "volumes": shown["extraVolumes"],
            },
        }  # fmt: skip
        assert_valid(pod, VERSIONS[-1])
    elif shown["apiVersion"] in THEIRS:
        assert set(shown) == {"apiVersion", "kind", "metadata", "spec"}
    else:
        assert_valid(shown, VERSIONS[-1])


def test_each_way_loads_the_module_alike() -> None:
    """The same three words of loadmodule everywhere, without blanks or quotes in them; the CAs in
    the folder of the journal."""
    lines = re.findall(r"loadmodule:? (\S+) journal (\S+) bootstrap (\S+)$", PAGE, re.MULTILINE)
    assert len(lines) == 3
    for module, journal, _ in lines:
        assert module.endswith("/certauth.so")
        assert re.search(rf"tls-ca-cert-dir:? {journal}/ca$", PAGE, re.MULTILINE)


def test_the_page_says_that_no_cluster_was_there() -> None:
    assert "It was not tried on a cluster." in PAGE
    for version in VERSIONS:
        assert version in PAGE.partition("## The base")[0]
