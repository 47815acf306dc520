"""Nothing that is typed ends in a traceback: every option of every command, with values that it cannot take."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks import arguments
from benchmarks.load import options
from benchmarks.load.corpus import Mix
from benchmarks.plan import __main__ as plan
from benchmarks.plan.options import BOUNDS
from benchmarks.plan.options import parser as plan_parser
from cli.main import app
from cli.services import process
from contracts.settings import ApiSettings, Settings, WebhookSettings, WorkerSettings
from tests.cli.listed import PASSED_ON, calling, commands, everything

ROOT = Path(__file__).parents[2]
NUMBERS = ("abc", "", "1e999999", "-1", "nan")
FREE = frozenset({"prompt", "query", "model", "negative", "name"})
"""Any text is a value: what it means the server decides."""
TENANTS = ("", "ACME", "a/b", "*", "a b", "-a", "a" * 64, "ключ", "acme\n")
SPECIAL = {
    "out": ("", ".", "x", "x.gif", "a/", "/proc/none/x.png", "x.png/y.png", "x\0.png"),
    "server": (
        "abc",
        "http://",
        "http://[",
        "ftp://h",
        "http://h:port",
        "http://h/?q",
        "h:8000",
        "http://a b",
        "http://a≠..b",
        "http://a..b",
    ),
    "api_key": ("a b", "ключ", "a\nb"),
    "seed": ("abc", "-1", "1.5", "9" * 30, "0x1", "٣"),
    "job_id": ("", "../keys", "a/b", "a?b", "a b", "\n"),
    "folder": ("/proc/none", "/dev/null/x", "x.png"),
    "devices": ("", "gpu", "0,0", "cpu:0", "-1"),
    "priority": ("", "urgent", "INTERACTIVE"),
    "image_format": ("", "gif", "jpg", "PNG"),
    "cache": ("", "on"),
    "status": ("", "done"),
    "init_image": ("", ".", "none.png", "/proc/none/x.png", "x\0.png", "/dev/zero"),
    "strength": (*NUMBERS, "0", "1.5", "inf", "0.5"),
    "lora": ("", "=1", "a=b", "a=-1", "a=nan", "a=1e3", "a=1=2"),
    "cache_key": ("", "abc", "A" * 64, "g" * 64, "a" * 65),
    "revision": ("",),
    "cache purge model": ("",),
    "backup out": ("/proc/none/x.tar", "x.png/y.tar", "a/b.tar", "x\0.tar"),
    "path": ("", ".", "none.tar", "/proc/none/x.tar", "x\0.tar"),
    "tenant": TENANTS,
    "tenant export out": ("/proc/none/x.tar", "x.png/y.tar", "a/b.tar", "x\0.tar"),
    "receipt": ("/proc/none/x.json", "x.png/y.json", "a/b.json", "x\0.json"),
    "like": (
        "",
        "abc",
        "0" * 64,
        "0" * 64 + ".gif",
        "G" * 64 + ".png",
        "../" + "0" * 64 + ".png?",
        "http://[",
    ),
    "image": ("", ".", "none.png", "/proc/none/x.png", "x\0.png", "/dev/zero"),
    "source": ("", "drawn"),
    "search find seed": (*NUMBERS, "1.5"),
    "search find model": ("",),
    "search find lora": ("",),
    "search find limit": (*NUMBERS, "0", "401"),
    "search add allow_networks": ("abc", "10.0.0.0/40"),
    "verify file": ("", ".", "none.png", "x.gif", "/proc/none/x.png", "x\0.png"),
    "trust": ("", ".", "none.pem", "/proc/none/x.pem", "x\0.pem"),
    "rdb": (".", "none.rdb", "x.png/y.rdb", "x\0.rdb"),
}
SPECIAL |= {
    "url": SPECIAL["server"],
    "rabbitmq_api": SPECIAL["server"],
    "key": SPECIAL["api_key"],
    "key_id": SPECIAL["job_id"],
    "after": SPECIAL["job_id"],
}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080200000090"
    "7753de0000000c4944415478da63f8ffff3f0005fe02fe33122ce10000000049454e44ae426082"
)
"""A PNG, for commands that read pictures."""
ARGUMENTS = {
    "out": "new.tar",
    "path": "x.png",
    "prompt": "a",
    "query": "a",
    "job_id": "job_1",
    "tenant": "acme",
    "key_id": "dk_1",
    "file": "x.png",
    "source": ".",
    "names": "0" * 64 + ".png",
    "name": "0" * 64 + ".png",
    "folder": ".",
    "prompts": "x.png",
}
LOOKING = (("audit",), ("doctor",), ("backup",), ("restore",), ("tenant", "export"), ("tenant", "erase"))


def is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def bad_values(path: tuple[str, ...], parameter: Any) -> tuple[str, ...]:
    name = str(parameter.name)
    if (special := " ".join((*path, name))) in SPECIAL:
        return SPECIAL[special]
    if name in SPECIAL:
        return SPECIAL[name]
    if name in FREE:
        return ()
    return NUMBERS


def cases() -> Iterator[Any]:
    for path, command in commands():
        for parameter in command.params:
            if getattr(parameter, "is_flag", False) or parameter.name == "help":
                continue
            last = parameter is command.params[-1]
            for value in (*bad_values(path, parameter), *(["\udce9"] * last)):
                # Those who only look find no platform in a folder, which is no fault of the value.
                if parameter.name == "folder" and path in LOOKING and value != "\udce9":
                    continue
                yield pytest.param(
                    path, parameter.name, value, id=f"{' '.join(path)} {parameter.name} {value!a}"
                )


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, with no setting of this machine; signal handlers as they were."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for name in [name for name in os.environ if name.startswith("DARKROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").touch()
    (tmp_path / "pixel.png").write_bytes(PIXEL)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def refused(done: Result) -> None:
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert isinstance(done.exception, SystemExit), "not by a fault"
    assert done.stderr.strip()


@pytest.mark.parametrize(("path", "name", "value"), list(cases()))
def test_a_value_that_an_option_cannot_take_is_refused(path: tuple[str, ...], name: str, value: str) -> None:
    command = dict(commands())[path]
    given = [*path]
    for parameter in command.params:
        if parameter.name == name and not is_argument(parameter):
            given += [f"{parameter.opts[0]}={value}"]
    given.append("--")
    for parameter in command.params:
        if is_argument(parameter):
            given.append(value if parameter.name == name else ARGUMENTS[str(parameter.name)])
    refused(CliRunner().invoke(app, given))


def filled(path: tuple[str, ...], command: Any) -> list[str]:
    """The command with every argument that it needs."""
    more = ["--model=a"] if path == ("cache", "purge") else []
    return [*path, *more, *(ARGUMENTS[str(each.name)] for each in command.params if is_argument(each))]


def wrong_shapes() -> Iterator[Any]:
    for path, command in everything():
        if path[:1] in [(name,) for name in PASSED_ON]:
            continue
        lines = [[*path, "--nonsense"], [*path, "--nonsense=1"], [*path, "-Z"], [*path, "nonsense", "a", "b"]]
        if not hasattr(command, "commands"):
            whole = filled(path, command)
            arguments = [each for each in command.params if is_argument(each)]
            lines += [[*whole, "surplus"], [*whole, "--", "--help"], [*whole, "--hlep"], [*whole, "--=1"]]
            lines += [[*path, *whole[len(path) : -1]]] if arguments else []
            for option in command.params:
                if is_argument(option) or option.name == "help":
                    continue
                name = option.opts[0]
                lines += [[*whole, f"{name}=yes"] if option.is_flag else [*whole, name]]
                lines += [[*whole, f"{name[:-1]}_"]]
        for line in lines:
            yield pytest.param(line, id=" ".join(line))


@pytest.mark.parametrize("line", list(wrong_shapes()))
def test_words_that_make_no_command_are_refused(line: list[str]) -> None:
    refused(CliRunner().invoke(app, line))


@pytest.mark.parametrize("path", [path for path, _ in calling()], ids=" ".join)
def test_a_server_that_is_away_or_a_stranger_is_said(path: tuple[str, ...], tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{process.free_port()}"
    given = [*filled(path, dict(calling())[path]), "--server", nowhere, "--api-key", "k"]
    done = CliRunner().invoke(app, given)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    assert "does not answer" in done.stderr
    assert len(done.stdout.splitlines()) == 0, "no head of a table before it"


def settings() -> Iterator[Any]:
    for kind in (ApiSettings, WorkerSettings, WebhookSettings):
        for name, schema in kind.model_json_schema()["properties"].items():
            text = schema.get("type") == "string" and not {"enum", "pattern"} & set(schema)
            optional = {"type": "string"} in schema.get("anyOf", [])
            if not (text or optional or schema.get("format") == "path"):
                yield pytest.param(kind, name, id=f"{kind.__name__} {name}")


@pytest.mark.parametrize(("kind", "name"), list(settings()))
def test_a_setting_that_is_wrong_stops_up_before_it_starts_anything(
    kind: type[Settings], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if {"format": "path", "type": "string"} in kind.model_json_schema()["properties"][name].get("anyOf", []):
        return
    variable = f"DARKROOM_{name.upper()}"
    monkeypatch.setenv(variable, "~")
    done = CliRunner().invoke(app, ["up", "--folder", str(tmp_path / "data")])
    refused(done)
    assert variable in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["doctor", "audit"])
@pytest.mark.parametrize("variable", ["DARKROOM_REDIS_URL", "DARKROOM_BROKER_URL", "DARKROOM_LEASE_S"])
def test_a_setting_that_is_wrong_stops_those_who_ask(
    command: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "nonsense")
    done = CliRunner().invoke(app, [command])
    refused(done)
    assert variable in done.stderr


CHECKED: dict[Any, tuple[str, ...]] = {
    arguments.positive: (*NUMBERS, "0", "inf"),
    arguments.at_least_zero: (*NUMBERS, "inf"),
    arguments.share: (*NUMBERS, "1.5"),
    arguments.below_one: (*NUMBERS, "1"),
    arguments.count: (*NUMBERS, "0", "1.5"),
    arguments.whole: (*NUMBERS, "1.5"),
    arguments.server: SPECIAL["server"],
    arguments.readable: ("", "/", "none.json"),
    arguments.writable: ("", "/", "x.png/y"),
    Mix.parse: ("", "a=b", "a=-1", "a=nan", "a=inf", "a=0"),
}


def script_cases() -> Iterator[Any]:
    for made in (options.parser(""), plan_parser("")):
        for action in made._actions:
            if action.nargs == 0 or action.dest in ("model", "hook_host"):
                continue
            values = ("nothing",) if action.choices else CHECKED[action.type]
            for value in values:
                option = action.option_strings[-1]
                yield pytest.param(made, option, value, id=f"{made.prog} {option} {value!a}")


@pytest.mark.parametrize(("made", "option", "value"), list(script_cases()))
def test_a_value_that_a_script_cannot_take_is_refused(
    made: argparse.ArgumentParser, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        made.parse_args([f"{option}={value}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{made.prog}: error: argument {option}")


@pytest.mark.parametrize("name", list(BOUNDS))
def test_a_plan_stays_within_what_can_be_simulated(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    option = f"--{name.replace('_', '-')}"
    monkeypatch.setattr("sys.argv", ["plan", f"{option}={int(BOUNDS[name][1]) + 1}"])
    assert plan.main() == 2
    assert capsys.readouterr().err.startswith(option)


def test_arguments_that_are_no_text_are_refused_by_the_command_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "generate", b"\xff\xfe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
