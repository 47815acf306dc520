"""Every Python and shell snippet of README, docs and model cards, run as it stands against a running platform.

What a reader has to fill in (an address, a key, the id of a job) is filled in from the platform. What cannot be run here is listed
with the reason, and checked as far as it goes.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from cli.services import process
from contracts.tenancy import new_token
from contracts.webhooks import SECRET_PREFIX
from tests.cli.listed import everything
from tests.integration.conftest import ROOT, Stack

pytestmark = pytest.mark.slow

DOCUMENTS: Final = (
    "README.md",
    "docs/**/*.md",
    "models/*/README.md",
    "helm/darkroom/README.md",
    "benchmarks/README.md",
)
TIMEOUT_S: Final = 100.0
INDEXED_S: Final = 300.0
"""A search process loads a CLIP first."""

NOT_RUN: Final = {
    "make run": "installs the project and serves until it is ended; tests/cli runs `darkroom up`",
    "make test": "is what runs this",
    "python -m api": "serves until it is ended; every deployment of this folder starts it so",
    "python -m search": "serves until it is ended; tests/integration/test_search.py starts it so",
    "python -m webhooks": "serves until it is ended; tests/faults_api/test_webhooks.py starts it so",
    "DARKROOM_MODEL=stabilityai/sd-turbo darkroom worker": "loads a model from the hub",
    "darkroom bench": "takes minutes; tests/benchmarks/test_load.py runs it at a small size",
    "python -m benchmarks.generations": "takes minutes; tests/benchmarks/test_generations.py runs its parts",
    "darkroom plan": "takes minutes; tests/benchmarks/test_plan.py runs it at a small size",
    "darkroom search add": "reads a folder, a bucket or a list of yours; tests/cli/test_search_add.py runs it",
    "darkroom search remove": "of a picture that was added; tests/cli/test_search_add.py runs it",
    "darkroom moderation fit ": "reads labelled prompts of yours; tests/cli/test_moderation.py runs it",
    "DARKROOM_CLIP=models/emoji-clip darkroom moderation": "reads images of yours; tests/cli runs it",
    "darkroom moderation import": "reads a list of yours; tests/cli/test_moderation_import.py runs it",
    "darkroom moderation release": "of a held image; tests/cli/test_moderation_reviews.py runs it",
    "darkroom moderation refuse": "of a held image; tests/cli/test_moderation_reviews.py runs it",
    "darkroom moderation undo": "of a held image; tests/cli/test_moderation_reviews.py runs it",
    "darkroom moderation scan": "needs a policy; tests/cli/test_moderation_scan.py runs it",
    "python -m second_look": "serves until it is ended; tests/integration/test_second_look.py starts it so",
    "make install": "installs the project",
    "DARKROOM_MODERATION=policy.yaml": "serves until it is ended; tests/integration/test_moderation.py starts it so",
    "python -m moderation.pictures.quantise": "reads a network's file; tests/moderation runs it",
    "docker build": "needs Docker; tests/helm/test_docker.py reads the files",
    "pip download": "needs PyTorch's index; tests/test_supply_chain.py reads what the image does with the hash",
    "pip hash": "of the file that the line before it fetches",
    "jq -cSj": "of a receipt of yours; tests/cli/test_tenant.py checks its sum",
    "helm ": "needs a cluster; `make helm-check` renders the chart and runs what it rendered",
    "kubectl ": "needs a cluster",
    "redis-cli ": "for a server of yours; tests/integration/test_least_rights.py gives its commands to one",
    "rabbitmqctl ": "for a server of yours; tests/integration/test_least_rights.py runs its commands",
}
"""Commands by how they begin, and why they are not run here."""

BEFORE: Final = {
    "docs/webhooks.md": """\
import time

from webhooks.sign import headers as signed

body = b'{"type": "job.succeeded"}'
headers = signed(["whsec_…"], "msg_1", int(time.time()), body)
"""
}
"""What a snippet has from the text around it."""


@dataclass(frozen=True)
class Snippet:
    """A fenced block: where it stands, its language, its text."""

    path: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Of a shell snippet: one a line, with lines that are continued as one; comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def snippets() -> list[Snippet]:
    found = []
    for path in sorted({path for pattern in DOCUMENTS for path in ROOT.glob(pattern)}):
        text = path.read_text()
        for block in re.finditer(r"^```(python|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 1
            found.append(Snippet(str(path.relative_to(ROOT)), line, block[1], block[2]))
    return found


SNIPPETS: Final = snippets()


def why_not(command: str) -> str | None:
    return next((begin for begin in NOT_RUN if command.startswith(begin)), None)


def ids(snippet: Snippet) -> str:
    return f"{snippet.path}:{snippet.line}"


@dataclass(frozen=True)
class Reader:
    """Somebody who follows the documents: a folder like a checkout, an environment, and what is filled in."""

    folder: Path
    environ: dict[str, str]
    fills: dict[str, str]

    def fill(self, text: str) -> str:
        for blank, value in self.fills.items():
            text = text.replace(blank, value)
        return text

    def run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def key() -> str:
    return new_token()


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, redis_server: Any, rabbit_server: Any, key: str
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("snippets")
    port = process.free_port()
    environ = {
        "DARKROOM_ADMIN_KEY": key,
        "DARKROOM_CLIP": str(ROOT / "models" / "emoji-clip"),
        "DARKROOM_SEARCH_INDEX": f"embedded:{folder / 'index'}",
        "DARKROOM_SIMILAR_FLOOR": "0.995",
        "DARKROOM_SEARCH_PORT": str(port),
        "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}",
    }
    with Stack.open(environ, folder, redis_server, rabbit_server) as running:
        running.start("search", "search")
        yield running


@pytest.fixture
def reader(stack: Stack, key: str, tmp_path: Path) -> Reader:
    for name in ("models", "docker", "helm"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    job = stack.ended(stack.submit(prompt="a rocket on a yellow background"))
    until = time.monotonic() + INDEXED_S
    while stack.http.get(job["images"][0]["url"] + "/similar").status_code != 200:
        assert time.monotonic() < until, stack.logs()
        time.sleep(0.1)
    made = stack.http.post("/v1/keys", json={"tenant": "acme"})
    assert made.status_code == 201, made.text
    return Reader(
        folder=tmp_path,
        environ={
            **os.environ,
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            # Operators have the settings of the API.
            **{
                name: stack.environ[name]
                for name in ("DARKROOM_REDIS_URL", "DARKROOM_BROKER_URL", "DARKROOM_BLOB_DIR")
            },
            "DARKROOM_SERVER": stack.url,
            "DARKROOM_ADMIN_KEY": key,
            "DARKROOM_API_KEY": key,
        },
        fills={
            "http://127.0.0.1:8000": stack.url,
            "https://darkroom.example": stack.url,
            "job_01m891b1nwt5m8j8181g2t3n06b": job["id"],
            "job_…": job["id"],
            "314ed0….png": job["images"][0]["url"].rpartition("/")[2],
            "dk_4fT9aQzB": made.json()["id"],
            "dk_…": key,
            "whsec_…": SECRET_PREFIX + base64.b64encode(secrets.token_bytes(24)).decode(),
        },
    )


@pytest.mark.parametrize("snippet", [each for each in SNIPPETS if each.language == "python"], ids=ids)
def test_a_python_snippet_runs(snippet: Snippet, reader: Reader) -> None:
    script = reader.folder / "snippet.py"
    script.write_text(reader.fill(BEFORE.get(snippet.path, "") + snippet.text))
    reader.run([sys.executable, str(script)])


@pytest.mark.parametrize(
    "snippet",
    [each for each in SNIPPETS if each.language == "sh" and not all(map(why_not, each.commands))],
    ids=ids,
)
def test_a_shell_snippet_runs(snippet: Snippet, reader: Reader) -> None:
    # An answer of 4xx or 5xx is a failure here.
    prelude = ["set -euo pipefail", 'curl() { command curl --fail-with-body "$@"; }']
    commands = [reader.fill(command) for command in snippet.commands if not why_not(command)]
    reader.run(["bash", "-c", "\n".join([*prelude, *commands])])


def test_what_is_not_run_is_there_and_names_what_exists() -> None:
    left = {
        command: begin
        for each in SNIPPETS
        if each.language == "sh"
        for command in each.commands
        if (begin := why_not(command)) is not None
    }
    assert set(left.values()) == set(NOT_RUN), "the list holds what is left out, and nothing else"
    helps: dict[str, str] = {}
    for command in left:
        words = shlex.split(command, comments=True)
        for flag, value in itertools.pairwise(words):
            if flag == "-f" and "/" in value:
                assert (ROOT / value).is_file(), command
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        # To others it is the name of a release, a user or a virtual host.
        if "darkroom" in words and words[0] not in ("kubectl", "helm", "redis-cli", "rabbitmqctl"):
            name = _name_of(words[words.index("darkroom") + 1 :])
            if name not in helps:
                helps[name] = _help(name)
            for word in words:
                if word.startswith("--"):
                    assert re.search(rf"{word.partition('=')[0]}\b", helps[name]), command


def _name_of(words: list[str]) -> str:
    """The words of them that name a command: two, if the first is a group."""
    known = {path for path, _ in everything()}
    return " ".join(tuple(words[:2]) if tuple(words[:2]) in known else words[:1])


def _help(name: str) -> str:
    """What `darkroom NAME --help` prints. `name` may be of two words."""
    environ = {**os.environ, "COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}
    asked = [sys.executable, "-m", "cli.main", *name.split(), "--help"]
    return subprocess.run(
        asked, cwd=ROOT, env=environ, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout
