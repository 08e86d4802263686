"""The Kubernetes manifests, against the API's schemas, the settings and each other."""

import shutil
import subprocess
from ipaddress import ip_network
from typing import Any

import pytest
import yaml

import config
from llmproxy.urls import METADATA
from server.gunicorn import master as gunicorn_master
from tests.deploy.compose import ROOT

validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

DIRECTORY = ROOT / "deploy/kubernetes"
KUSTOMIZATION = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
MANIFESTS = [
    manifest for name in KUSTOMIZATION["resources"] for manifest in yaml.safe_load_all((DIRECTORY / name).read_text())
]
LITERALS = dict(literal.split("=", 1) for literal in KUSTOMIZATION["configMapGenerator"][0]["literals"])


def the(kind: str) -> dict[str, Any]:
    """The first manifest of a kind."""
    return next(manifest for manifest in MANIFESTS if manifest["kind"] == kind)


def pod() -> dict[str, Any]:
    return the("StatefulSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']} {manifest['metadata']['name']}"
)
def test_a_manifest_keeps_to_the_schema_of_the_api(manifest: dict[str, Any]) -> None:
    validator.validate(manifest, validator.latest_version(), strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (Debian: kubernetes-client)")
def test_kustomize_builds_what_the_schemas_accept_with_the_settings_by_their_hash() -> None:
    done = subprocess.run(["kubectl", "kustomize", DIRECTORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}

    for manifest in built.values():
        validator.validate(manifest, validator.latest_version(), strict=True)
    assert set(built) == {manifest["kind"] for manifest in MANIFESTS} | {"ConfigMap"}
    assert {manifest["metadata"].get("namespace") for manifest in built.values()} == {"llm-proxy", None}
    [container] = built["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    # A changed setting is a changed name, so that the pods are replaced.
    name = built["ConfigMap"]["metadata"]["name"]
    assert container["envFrom"] == [{"configMapRef": {"name": name}}] and name != "llm-proxy"
    assert container["image"].startswith(KUSTOMIZATION["images"][0]["newName"])


def test_the_kustomization_names_every_file() -> None:
    files = {path.name for path in DIRECTORY.glob("*.yaml")}

    assert files == {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    assert KUSTOMIZATION["images"][0]["name"] == pod()["containers"][0]["image"]


def test_every_selector_finds_the_pods() -> None:
    labels = the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        the("StatefulSet")["spec"]["selector"]["matchLabels"],
        the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(service["spec"]["selector"] for service in MANIFESTS if service["kind"] == "Service"),
    ]

    assert len(selectors) == 5
    assert all(selector == labels for selector in selectors)


def test_every_variable_is_a_setting_and_no_secret_stands_there_itself() -> None:
    variables = pod()["containers"][0]["env"]
    files = {variable["name"]: variable["value"] for variable in variables if "value" in variable}
    looked_up = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in variables if "valueFrom" in each}

    assert set(looked_up) <= set(config.SECRETS)
    assert all(key["name"] == "llm-proxy" and key["optional"] for key in looked_up.values())
    assert set(LITERALS) <= set(config.SETTINGS) - set(config.SECRETS)
    assert {name.removesuffix("_FILE") for name in files} <= set(config.SECRETS)
    [mount] = [mount for mount in pod()["containers"][0]["volumeMounts"] if mount["name"] == "secrets"]
    assert all(value.startswith(f"{mount['mountPath']}/") for value in files.values())
    given = {name.removesuffix("_FILE") for name in files} | set(LITERALS)
    assert set(config.REQUIRED_WHEN_DEPLOYED) | {"DATABASE_URL"} <= given


def test_a_pod_gets_longer_to_end_than_its_calls() -> None:
    settings = config.Settings(drain_timeout_s=float(LITERALS["DRAIN_TIMEOUT"]))

    assert gunicorn_master.graceful_timeout_s(settings) < pod()["terminationGracePeriodSeconds"]


def test_a_stopping_pod_is_left_out_before_it_stops_listening() -> None:
    probe = pod()["containers"][0]["readinessProbe"]
    noticed_after_s = probe["periodSeconds"] * probe["failureThreshold"]

    assert probe["httpGet"]["path"] == "/readyz"
    assert noticed_after_s < config.Settings().drain_overlap_s


def test_a_pod_may_do_nothing_but_write_where_it_must() -> None:
    container = pod()["containers"][0]

    assert pod()["securityContext"]["runAsNonRoot"] and pod()["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/app/data", "/tmp"}


def test_a_pod_reaches_its_database_upstreams_and_names_but_no_metadata_of_a_cloud() -> None:
    policy = the("NetworkPolicy")["spec"]
    anywhere = [rule for rule in policy["egress"] if "to" not in rule]
    bounded = [rule for rule in policy["egress"] if "to" in rule]

    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert {port["port"] for rule in anywhere for port in rule["ports"]} == {53}
    assert {port["port"] for rule in bounded for port in rule["ports"]} == {443, 5432}
    blocks = [(ip_network(to["ipBlock"]["cidr"]), to["ipBlock"]["except"]) for rule in bounded for to in rule["to"]]
    for network in (*METADATA, ip_network("169.254.0.0/16"), ip_network("fe80::/10")):
        around = [excepted for block, excepted in blocks if network[0] in block]
        assert around and all(any(network.subnet_of(ip_network(one)) for one in excepted) for excepted in around)
