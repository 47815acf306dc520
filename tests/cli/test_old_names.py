"""Options and variables under their old names work, with a warning that says the new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import record
from cli.group import renamed
from cli.main import app
from cli.services import process
from tests.cli.listed import calling

NEWER = (("moderation", "log"),)
"""Commands that never had the old names: this one has a --key of its own."""
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080200000090"
    "7753de0000000c4944415478da63f8ffff3f0005fe02fe33122ce10000000049454e44ae426082"
)
"""A PNG, for commands that read pictures."""
FILLED = {
    "prompt": "a",
    "job_id": "job_1",
    "tenant": "acme",
    "key_id": "dk_1",
    "query": "a",
    "source": ".",
    "names": "0" * 64 + ".png",
    "name": "0" * 64 + ".png",
    "out": "kept",
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DARKROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pixel.png").write_bytes(PIXEL)


def call(path: tuple[str, ...], *options: str, **environ: str) -> Result:
    command = dict(calling())[path]
    wanted = [FILLED[str(each.name)] for each in command.params if each.param_type_name == "argument"]
    more = ["--model", "a"] if path == ("cache", "purge") else []
    return CliRunner().invoke(app, [*path, *wanted, *more, *options], env=environ)


def test_commands_that_call_a_server_were_found() -> None:
    assert len(list(calling())) >= 11


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path, _ in calling() if path not in NEWER], ids=" ".join)
def test_every_command_takes_one_name_and_the_old_ones_with_a_warning(path: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{process.free_port()}"
    quiet = call(path, "--server", url, "--api-key", "k")
    assert quiet.exit_code == 1, quiet.output
    assert url in quiet.stderr
    assert "Warning" not in quiet.stderr
    for options in (("--url", url, "--key", "k"), (f"--url={url}", "--key=k")):
        old = call(path, *options)
        assert (old.exit_code, url in old.stderr) == (1, True), old.output
        assert "Warning: --url is now --server." in old.stderr
        assert "Warning: --key is now --api-key." in old.stderr


@pytest.mark.slow
def test_the_old_variable_works_with_a_warning_where_the_new_one_is_not_set() -> None:
    old, new = (f"http://127.0.0.1:{process.free_port()}" for _ in range(2))
    done = call(("models",), DARKROOM_URL=old)
    assert old in done.stderr
    assert "Warning: DARKROOM_URL is now DARKROOM_SERVER." in done.stderr
    both = call(("models",), DARKROOM_URL=old, DARKROOM_SERVER=new)
    assert new in both.stderr
    assert "Warning" not in both.stderr


def test_only_options_of_the_command_are_renamed() -> None:
    assert renamed(["--url", "x", "--", "--url"], {"--server"}) == ["--server", "x", "--", "--url"]
    assert renamed(["--key=x"], {"--server"}) == ["--key=x"]
    assert renamed(["--key=x"], {"--key", "--api-key"}) == ["--key=x"]


def test_the_key_of_this_folder_is_sent_to_no_other_server(tmp_path: Path) -> None:
    folder = tmp_path / record.FOLDER
    folder.mkdir(parents=True)
    record.admin_key(folder)
    done = call(("keys", "list"), "--server", "http://127.0.0.1:1")
    assert done.exit_code == 2, done.output
    assert "DARKROOM_API_KEY" in done.stderr
