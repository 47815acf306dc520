"""The list of faults, continued: everything is lost, and restored from a backup that was taken under load."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import httpx

from cli import archive
from contracts.tenancy import new_token
from store.rdb import Entry
from tests.faults.history import TERMINAL
from tests.faults.load import client
from tests.faults.round import Round, Row
from tests.faults.rows_more import STAYING
from tests.faults.site import ROOT, Site

ADMIN: Final = new_token()
COMMAND_S: Final = 120.0
WORKERS: Final = ("worker-1", "worker-2")
STATUSES: Final = {"queued", "running", "succeeded"}
"""What the backup must meet."""


def darkroom(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ours, with the settings of the API."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env=site.settings("api"),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


def lose_everything(site: Site) -> None:
    """Redis, RabbitMQ and pictures begin anew, empty, at their old addresses."""
    site.end()
    for server in (site.rabbit, site.cache, site.state):
        server.stop()
        shutil.rmtree(server.folder)
        server.start()
    shutil.rmtree(site.folder / "blobs")


def everything_lost(one: Round) -> None:
    """What the backup holds is there again: live jobs end, ended ones show their pictures, keys open, the books balance."""
    site, path = one.site, one.site.folder / "backup.tar"
    path.unlink(missing_ok=True)
    with site.control as control:
        control.config_set("repl-diskless-sync-delay", "0")
    with client(site.url) as http:
        answer = http.post("/v1/keys", json={"tenant": "acme"}, headers=_bearer(ADMIN)).raise_for_status()
    key = answer.json()["key"]
    load = one.load(prompt="slow=1")
    load.after(one.some(0.3, 0.6))
    until = time.monotonic() + COMMAND_S
    while STATUSES - _statuses(one) and time.monotonic() < until:
        time.sleep(0.01)
    # The workers hold still while the command starts, or nothing might be left to do by then. The load goes on.
    for name in WORKERS:
        site.send(name, signal.SIGSTOP)
    saved = darkroom(site, "backup", str(path))
    for name in WORKERS:
        site.send(name, signal.SIGCONT)
    one.find(saved.returncode == 0, f"backup: {saved.stderr}")
    load.join()
    one.fault("Redis, RabbitMQ and pictures lost")
    lose_everything(site)
    restored = darkroom(site, "restore", str(path))
    one.find(restored.returncode == 0, f"restore: {restored.stderr}")
    site.ensure()
    one.healed()
    one.load(seconds=1.0, jobs=max(1, one.jobs // 4))
    history = one.end()
    at_backup = {record["id"]: record["status"] for record in map(_record, archive.entries(path)) if record}
    for status in sorted(STATUSES):
        count = sum(each == status for each in at_backup.values())
        one.note(f"{status}_at_backup", count)
        one.find(count > 0, f"no job was {status} at the backup")
    ends = {job_id: history.finals[job_id].status for job_id in at_backup if job_id in history.finals}
    one.find(set(ends) == set(at_backup), f"{len(at_backup) - len(ends)} jobs of the backup are gone")
    one.find(set(ends.values()) == {"succeeded"}, f"jobs of the backup ended {set(ends.values())}")
    with client(site.url) as http:
        shown = [job_id for job_id, status in at_backup.items() if status in TERMINAL]
        missing = [job_id for job_id in shown if not _shown(http, job_id)]
        one.find(not missing, f"{len(missing)} of {len(shown)} jobs have lost their pictures")
        one.find(http.get("/v1/jobs", headers=_bearer(key)).status_code == 200, "the API key is gone")
        one.find(http.get("/v1/jobs", headers=_bearer(new_token())).status_code == 401, "any key opens")
    audited = darkroom(site, "audit", "--full")
    one.find(audited.returncode == 0, f"audit: {audited.stdout}{audited.stderr}")


def _statuses(one: Round) -> set[str]:
    return {record["status"] for record in one.site.records(one.history.began).values()}


def _record(entry: Entry) -> dict[str, str] | None:
    """The job's record, if the entry is one."""
    if b":job:" not in entry.key:
        return None
    values = [value.decode() for value in entry.values]
    return dict(zip(values[::2], values[1::2], strict=True))


def _shown(http: httpx.Client, job_id: str) -> bool:
    """Whether the job's pictures are answered, and are what their names promise."""
    job = http.get(f"/v1/jobs/{job_id}").json()
    answers = [http.get(image["url"]) for image in job.get("images", ())]
    return bool(answers) and all(
        answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == Path(answer.url.path).stem
        for answer in answers
    )


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


RESTORE_ROWS: Final = (
    Row(
        47,
        "everything lost, restored from a backup",
        "AT",
        everything_lost,
        jobs=60,
        settings={
            # Whoever waits while everything is rebuilt may wait for long.
            "DARKROOM_JOB_TTL_S": "240",
            # A worker that holds still keeps its jobs.
            "DARKROOM_LEASE_S": "20",
            **STAYING,
            "DARKROOM_ADMIN_KEY": ADMIN,
        },
    ),
)
