"""The house itself: packages, names and documents are what they say."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import contracts.failures  # noqa: F401  its errors are of the tree
from contracts.errors import DarkroomError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = (
    "api",
    "broker",
    "backends",
    "cache",
    "cli",
    "client",
    "contracts",
    "duties",
    "models",
    "moderation",
    "runtime",
    "scheduler",
    "search",
    "second_look",
    "store",
    "telemetry",
    "views",
    "webhooks",
    "worker",
)


@pytest.mark.parametrize("room", ROOMS)
def test_a_top_level_name_belongs_to_us_alone(room: str) -> None:
    """PyPI has packages of these names: an installed one must not shadow ours, nor ours be split with it."""
    spec = importlib.util.find_spec(room)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    assert [Path(each) for each in spec.submodule_search_locations] == [ROOT / room]


def test_every_package_is_installed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in (*ROOMS, "benchmarks")
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_dependency_is_pinned_and_none_drags_in_torchvision() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert pins[canonicalize_name("torch")] == "2.13.0"
    assert not {"torchvision", "torchaudio"} & set(pins)
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = PROJECT["project"]["dependencies"] + [each for extra in extras for each in extra]
    names = {canonicalize_name(Requirement(each).name) for each in wanted} - {"darkroom"}
    assert names - set(pins) == set()


def test_every_module_is_a_few_pages_at_most() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for room in (*ROOMS, "benchmarks")
        for path in (ROOT / room).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_no_module_is_shipped_for_tests_alone() -> None:
    """Every module is reached from one that is started, from a benchmark, or from the client's package."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for room in (*ROOMS, "benchmarks")
        for path in (ROOT / room).rglob("*.py")
    }
    waiting = {"cli.main", "client.__init__"} | {
        name
        for name, path in modules.items()
        if name.startswith("benchmarks.") or '__name__ == "__main__"' in path.read_text()
    }
    reached = set[str]()
    while waiting:
        reached.add(name := waiting.pop())
        named = _named_in(modules[name])
        # Who imports a package runs its __init__.
        waiting |= ((named | {f"{each}.__init__" for each in named}) & set(modules)) - reached
    assert sorted(name for name in set(modules) - reached if not name.endswith(".__init__")) == []


def _named_in(path: Path) -> set[str]:
    """All that the module names as a module: what it imports, and strings such as those of `python -m` and of registries."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                found |= {each.name for each in node.names}
            case ast.ImportFrom(module=str(module)):
                found |= {module, *(f"{module}.{each.name}" for each in node.names)}
            case ast.Constant(value=str(text)):
                found |= set(re.findall(r"[a-z_]\w*(?:\.\w+)+", text))
    return found


def test_every_port_has_its_module() -> None:
    """`JobStore` is in contracts/ports/job_store.py, and no other module of contracts holds a port."""
    ports = {path.stem: _protocols(path) for path in (ROOT / "contracts" / "ports").glob("[!_]*.py")}
    assert ports == {module: [module.replace("_", " ").title().replace(" ", "")] for module in ports}
    elsewhere = {
        path.name: found for path in (ROOT / "contracts").glob("*.py") if (found := _protocols(path))
    }
    assert elsewhere == {}
    listed = re.findall(
        r"^    ([A-Z]\w+)  ", (ROOT / "contracts" / "ports" / "__init__.py").read_text(), re.MULTILINE
    )
    assert listed == sorted(name for names in ports.values() for name in names)


def _protocols(path: Path) -> list[str]:
    return [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    ]


def test_documents_name_files_that_are_there() -> None:
    for document in (ROOT / "README.md", ROOT / "docs" / "README.md", ROOT / "docs" / "structure.md"):
        text = document.read_text()
        links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", text)
        names = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w/.-]+)`", text)
        missing = [link for link in links if not (document.parent / link).exists()]
        missing += [name for name in names if not (ROOT / name).exists()]
        assert missing == [], document.name


def test_the_index_of_the_docs_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    links = set(re.findall(r"^\| \[[^\]]+\]\(([\w.-]+)/?\)", index.read_text(), re.MULTILINE))
    pages = {path.name for path in index.parent.glob("*.md")} - {index.name}
    assert links == pages | {path.name for path in index.parent.iterdir() if path.is_dir()}


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    kinds: list[type[DarkroomError]] = [DarkroomError, *_below(DarkroomError)]
    assert [kind.code for kind in kinds if f"`{kind.code}`" not in text] == []


def _below(kind: type[DarkroomError]) -> Iterator[type[DarkroomError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
