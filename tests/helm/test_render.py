"""Every combination of values: lint, render, schemas, and what must hold of all of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts import moderation_settings, search_settings, settings
from contracts.settings import Settings
from tests.helm.chart import CHART, COMBINATIONS, combination, environment
from tests.helm.document import stale
from tests.helm.tools import CRDS, HELM, ROOT, VENV

every = pytest.mark.parametrize("file", COMBINATIONS, ids=lambda file: file.stem)
KNOWN = {
    f"DARKROOM_{name.upper()}"
    for each in (
        *vars(settings).values(),
        *vars(search_settings).values(),
        *vars(moderation_settings).values(),
    )
    if isinstance(each, type) and issubclass(each, Settings)
    for name in each.model_fields
}


def core(resource: dict[str, Any]) -> bool:
    api = resource["apiVersion"]
    return "." not in api.partition("/")[0] or (
        api.partition("/")[0].endswith(".k8s.io") and "gateway" not in api
    )


def test_there_are_many() -> None:
    assert len(COMBINATIONS) >= 12


@every
def test_lint_is_strict(file: Path) -> None:
    done = subprocess.run(
        [HELM, "lint", "--strict", CHART, "--values", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_knows_every_field(tmp_path: Path) -> None:
    ours = [each for file in COMBINATIONS for each in combination(file).objects if core(each)]
    assert len(ours) > 300
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(ours))
    done = subprocess.run(
        [VENV / "bin" / "kubernetes-validate", "--strict", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" passed ") == len(ours), done.stdout + done.stderr


def test_resources_of_others_fit_their_own_schemas() -> None:
    found = [each for file in COMBINATIONS for each in combination(file).objects if not core(each)]
    kinds = {each["kind"] for each in found}
    assert kinds >= {
        "ExternalSecret",
        "HTTPRoute",
        "PodMonitor",
        "PrometheusRule",
        "ScaledObject",
        "ServiceMonitor",
        "TriggerAuthentication",
    }
    assert faults_of(found) == []
    broken = json.loads(json.dumps(next(each for each in found if each["kind"] == "ScaledObject")))
    broken["spec"]["minReplicaCount"] = "many"
    assert len(faults_of([broken])) == 1, "the validation validates"


def faults_of(resources: list[dict[str, Any]]) -> list[str]:
    script = shutil.copy(ROOT / "tests" / "helm" / "crds.mjs", CRDS)
    done = subprocess.run(
        ["node", script],
        input=json.dumps(resources),
        capture_output=True,
        text=True,
        check=True,
    )
    answer: list[str] = json.loads(done.stdout)
    return answer


@every
def test_names_are_unique_and_labels_are_there(file: Path) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in combination(file).objects]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


@every
def test_every_variable_is_a_setting(file: Path) -> None:
    rendered = combination(file)
    used = {
        name
        for _, pod in rendered.pods()
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        for name in (each["name"] for each in container.get("env", []))
        if name.startswith("DARKROOM_")
    }
    used |= set(rendered.one("ConfigMap", "-settings")["data"])
    # The command line of `helm test` takes its key from a variable of its own.
    assert used - KNOWN - {"DARKROOM_API_KEY"} == set()
    assert "DARKROOM_BROKER_URL" in used


@every
def test_pods_meet_the_restricted_standard(file: Path) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root on top."""
    for name, pod in combination(file).pods():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert not [port for port in container.get("ports", []) if "hostPort" in port]
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        mounted = {
            m["name"] for c in [*pod.get("initContainers", []), *pod["containers"]] for m in c["volumeMounts"]
        }
        claims = {"data"}
        assert mounted - claims == {volume["name"] for volume in pod.get("volumes", [])}, name


@every
def test_selectors_select_their_pods(file: Path) -> None:
    rendered = combination(file)
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "StatefulSet", "Job")
        for each in rendered.every(kind)
    ]
    for kind in ("Deployment", "StatefulSet"):
        for each in rendered.every(kind):
            wanted = each["spec"]["selector"]["matchLabels"]
            assert wanted.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    for each in rendered.every("Service"):
        assert sum(each["spec"]["selector"].items() <= given.items() for given in labels) == 1
    for each in rendered.every("PodDisruptionBudget"):
        wanted = each["spec"]["selector"]["matchLabels"]
        assert sum(wanted.items() <= given.items() for given in labels) == 1


@every
def test_what_a_pod_reads_exists(file: Path) -> None:
    """Secrets and claims are the chart's own, or are named by the values."""
    rendered = combination(file)
    values = (CHART / "values.yaml").read_text() + file.read_text()
    made = {
        (each["kind"], each["metadata"]["name"]): set(each.get("stringData", {}))
        for each in rendered.objects
        if each["kind"] in ("Secret", "PersistentVolumeClaim", "ServiceAccount")
    }
    for each in rendered.every("ExternalSecret"):
        secret = made.setdefault(("Secret", each["spec"]["target"]["name"]), set())
        secret |= {data["secretKey"] for data in each["spec"]["data"]}
    for name, pod in rendered.pods():
        for value in environment(pod).values():
            if isinstance(value, dict) and "secretKeyRef" in value:
                ref = value["secretKeyRef"]
                known = ref["key"] in made.get(("Secret", ref["name"]), set())
                assert known or ref["name"].removesuffix("-default-user") in values, (name, ref)
        for volume in pod.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in made or claim["claimName"] in values
        account = pod["serviceAccountName"]
        assert account == "default" or ("ServiceAccount", account) in made


def test_nothing_generated_is_stale() -> None:
    assert [str(path) for path in stale()] == [], "run `python -m tests.helm.document`"
