"""The list of faults, continued: two versions side by side, as in a rolling upgrade and when it is taken back."""

from __future__ import annotations

from typing import Any, Final

from tests.faults.load import client
from tests.faults.round import Round, Row

NEWER: Final = "newer"


def upgraded(one: Round) -> None:
    """This version first, the next one worker by worker and API by API."""
    one.site.start("api-2", NEWER)
    one.site.ready_at("api-2")
    loads = [one.load(seconds=8.0, jobs=one.jobs // 2), one.load(seconds=8.0, jobs=one.jobs // 2, at="api-2")]
    for number, name in enumerate(("worker-2", "worker-1"), 1):
        loads[0].after(int(number * one.jobs / 8))
        one.fault(f"{name} becomes {NEWER}")
        one.site.stop(name)
        one.site.start(name, NEWER)
        one.site.ready(2)
    _both_answer(one)
    _settle(one)


def taken_back(one: Round) -> None:
    """The next version first; then this one comes back, beside the last worker of the next, which has jobs left to end."""
    for name in ("worker-1", "worker-2"):
        one.site.stop(name)
        one.site.start(name, NEWER)
    one.site.start("api-2", NEWER)
    one.site.ready(2)
    one.site.ready_at("api-2")
    loads = [one.load(seconds=8.0, jobs=one.jobs // 2), one.load(seconds=8.0, jobs=one.jobs // 2, at="api-2")]
    loads[1].after(one.jobs // 8)
    one.fault("worker-1 is this version again")
    one.site.stop("worker-1")
    one.site.start("worker-1")
    one.site.ready(2)
    _both_answer(one)
    _settle(one)
    left = (
        (one.site.folder / "worker-1" / "output.log").read_text(errors="replace").count("job_left_to_newer")
    )
    one.note("left_to_newer", left)
    one.find(left > 0, "no message of the next version ever came to a worker of this one")


def _settle(one: Round) -> None:
    """The round ends with a worker of each version alive or the newest alone; only then is everything this version again."""
    one.healed()
    one.end()
    _all_succeeded(one)
    for name in ("api-2", "worker-1", "worker-2"):
        if one.site.running(name):
            one.site.stop(name)


def _all_succeeded(one: Round) -> None:
    for submit in one.history.submits:
        one.find(submit.status < 500, f"a submit was answered {submit.status} {submit.code}")
    for job_id, final in one.history.finals.items():
        one.find(final.status == "succeeded", f"{job_id} ended {final.status} {final.code}")
    one.find(
        all(each.outcome == "accepted" for each in one.history.submits), "some requests were not accepted"
    )


def _both_answer(one: Round) -> None:
    """Each version shows what the other has written: the list, each job, the models."""
    for name in ("api", "api-2"):
        with client(one.site.url_of(name)) as http:
            for path in ("/v1/models", "/v1/jobs?limit=100"):
                answer = http.get(path)
                one.find(answer.status_code == 200, f"{name} answers {answer.status_code} to {path}")
            listed: list[dict[str, Any]] = http.get("/v1/jobs?limit=100").json()["data"]
            one.find(len(listed) > 1, f"{name} lists {len(listed)} jobs")
            for job in listed[:20]:
                status = http.get(f"/v1/jobs/{job['id']}").status_code
                one.find(status == 200, f"{name} answers {status} for a job of the other version")


VERSION_ROWS: Final = (
    Row(46, "a rolling upgrade to the next version, side by side", "ALDT", upgraded, jobs=200),
    Row(146, "an upgrade taken back, side by side", "ALDT", taken_back, jobs=200),
)
