"""Later Debian suites than this machine's, each in a folder: newer brokers, stores and Pythons than it has packages for.

They come from the mirror that apt uses here. debootstrap checks the suite's signature against Debian's keyring, and apt within
the suite checks all that follows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ENTER: Final = Path(__file__).with_name("enter.sh")
CACHE: Final = Path(os.environ.get("DARKROOM_NEWER", ROOT / ".cache" / "newer"))
KEYRING: Final = Path("usr/share/keyrings/debian-archive-keyring.gpg")
SERVERS: Final = ("rabbitmq-server", "redis-server", "valkey-server")
PACKAGES: Final = {
    "sid": SERVERS,
    "trixie": (*SERVERS, "python3", "python3-dev", "python3-venv"),
}
WAYS: Final = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries")
"""Which of apt's settings say how the mirror is reached, and how old its index may be."""
READY: Final = "installed"
"""A file that holds what a finished suite was made with."""


class NotProvided(Exception):
    """What the tests need is not there and cannot be made; the message says why."""


def provide(suite: str) -> Path:
    """The root folder of the suite, made if need be: two minutes, about half a gigabyte. Raises `NotProvided`."""
    folder = CACHE / suite
    root, packages = folder / "root", " ".join(PACKAGES[suite])
    if (folder / READY).exists() and (folder / READY).read_text() == packages:
        return root
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NotProvided(f"Debian {suite} is made as root on a Debian system: it mounts, and asks apt.")
    sys.stderr.write(f"Making Debian {suite} in {folder} ...\n")
    folder.mkdir(parents=True, exist_ok=True)
    _run(["rm", "-rf", "--one-file-system", str(root)])
    tools = folder / "tools"
    for package in ("debootstrap", "debian-archive-keyring"):
        _unpack(package, tools)
    environ = {**os.environ, "DEBOOTSTRAP_DIR": str(tools / "usr/share/debootstrap")}
    command = [str(tools / "usr/sbin/debootstrap"), "--variant=minbase", "--force-check-gpg"]
    _run([*command, f"--keyring={tools / KEYRING}", suite, str(root), mirror()], environ)
    _configure(root)
    _install(root, PACKAGES[suite])
    (folder / READY).write_text(packages)
    return root


def mirror() -> str:
    """Where apt fetches Debian's packages from on this machine. Raises `NotProvided`."""
    fields = "$(REPO_URI)"
    kind = ["Created-By: Packages", "Origin: Debian", "Label: Debian"]
    found = _run(["apt-get", "indextargets", "--format", fields, *kind]).split()
    if not found:
        raise NotProvided("apt knows no mirror of Debian here, or was never updated: apt-get update.")
    return found[0]


def inside(root: Path, *command: str) -> list[str]:
    """The command line that runs `command` with the suite's programs and libraries."""
    return [str(ENTER), str(root), *command]


def _unpack(package: str, folder: Path) -> None:
    """A package of this machine's own suite, checked by its apt, unpacked and not installed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{package}_*.deb"):
        old.unlink()
    # apt fetches as a user of its own where it can; the folder may be closed to that one.
    _run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package], folder=folder)
    (archive,) = folder.glob(f"{package}_*.deb")
    _run(["dpkg", "-x", str(archive), str(folder)])


def _configure(root: Path) -> None:
    """This machine's way to its mirror, for apt in the suite; and no service is started when a package is installed."""
    settings = _run(["apt-config", "dump", "Acquire"]).splitlines()
    ways = [line for line in settings if line.startswith(WAYS)]
    (root / "etc/apt/apt.conf.d/90machine").write_text("\n".join(ways) + "\n")
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(f"/etc/{name}", root / "etc" / name)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)


def _install(root: Path, packages: tuple[str, ...]) -> None:
    script = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    update = ["apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any"]
    for apt in (update, ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]):
        _run(["unshare", "--mount", "sh", "-c", script, str(root), *apt], environ)


def _run(command: list[str], environ: dict[str, str] | None = None, folder: Path | None = None) -> str:
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotProvided(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
