"""The list of faults, continued: a policy holds some pictures and blocks others, and clients ask for them by every route all the time."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx

from backends.blobs import blob_name
from contracts.engine import BatchKey
from moderation.hashes.importing import import_list
from tests.faults.load import Load, client
from tests.faults.round import Round, Row
from tests.held_routes import BY_CONTENT, BY_JOB, BY_NAME, PLAIN, Ask, Asks, HeldPicture
from worker.encode import Output, encode
from worker.engine.fake import _noise

REVIEWS: Final = "/v1/admin/moderation/reviews"
ADMIN_KEY: Final = "dk_" + "A" * 43
_KEY: Final = {"X-API-Key": ADMIN_KEY}
POLICY: Final = """
name: house
version: 1
words: {lists: [{file: words.txt, category: weapons}]}
pictures: {lists: [{file: known.pdq, category: known}], time_limit_s: 30}
rules: {weapons: {words: review}, known: {hashes: block}}
"""
PROMPTS: Final = ("a sword", "a pear", "a plum")
"""By kind of picture: the first is held for its words, the second is on the list of known pictures, the third is shown."""
HELD, BLOCKED, SHOWN = range(len(PROMPTS))
SECONDS: Final = 12.0
ASKERS: Final = 2
DECIDED_S: Final = 40.0
"""The owner sees a decision so long after it at most, although the API was killed meanwhile."""
ASKED: Final[dict[str, Asks]] = {
    **BY_NAME,
    **{route: asks for route, asks in BY_JOB.items() if not route.endswith("/cancel")},
    **BY_CONTENT,
    **{route: PLAIN[route] for route in ("GET /metrics", "GET /v1/models")},
    "POST /v1/jobs": lambda picture: [Ask("POST", "/v1/jobs", dict(picture.request))],
}
"""A client that canceled jobs, or waited for the end of each, would be in the way of the load."""


IMAGE: Final = "GET /v1/images/{name}"
"""Half of the questions are this one."""


def kind_of(seed: int) -> int:
    return seed % len(PROMPTS)


def body_of(seed: int) -> dict[str, Any]:
    return {"prompt": f"{PROMPTS[kind_of(seed)]} slow=0.1", "seed": seed}


def file_of(seed: int) -> bytes:
    """The file that the workers make of this seed."""
    return encode(_noise(BatchKey("fake", 64, 64, guided=False), seed), Output()).data


class Asker:
    """Asks at random moments for random pictures that nobody may see. `stop` answers what it was shown."""

    def __init__(self, one: Round, load: Load) -> None:
        self.asked = 0
        self.jobs: dict[str, int] = {}
        """Jobs that asking for the same picture has made, and their seeds."""
        self._url = one.site.url
        self._load = load
        self._files = {seed: file_of(seed) for seed in load.seeds if kind_of(seed) != SHOWN}
        self._digests = [blob_name(data, "png").partition(".")[0] for data in self._files.values()]
        self._ending = threading.Event()
        self._shown: list[str] = []
        rngs = [random.Random(one.rng.random()) for _ in range(ASKERS)]
        self._threads = [threading.Thread(target=self._run, args=[rng], daemon=True) for rng in rngs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[str]:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)
        return self._shown

    def _run(self, rng: random.Random) -> None:
        with client(self._url) as http:
            while not self._ending.is_set():
                seed = rng.choice(list(self._files))
                jobs = [each.job_id for each in list(self._load.submits) if each.seed == seed and each.job_id]
                data = self._files[seed]
                picture = HeldPicture(
                    blob_name(data, "png"),
                    rng.choice(jobs) if jobs else "job_" + "0" * 27,
                    body_of(seed),
                    data,
                )
                route = rng.choice((IMAGE, rng.choice(list(ASKED))))
                for ask in ASKED[route](picture):
                    with suppress(httpx.TransportError):
                        self._look(ask, http.request(**ask.words), picture, seed)

    def _look(self, ask: Ask, answer: httpx.Response, picture: HeldPicture, seed: int) -> None:
        self.asked += 1
        told = answer.text.replace(picture.name, "", ask.path.count(picture.name))
        if picture.file in answer.content or any(digest in told for digest in self._digests):
            self._shown.append(
                f"{ask.method} {ask.path} answered {answer.status_code}: {len(answer.content)} bytes"
            )
        if ask.path == "/v1/jobs" and ask.method == "POST" and answer.status_code in (200, 202):
            self.jobs[answer.json()["id"]] = seed


def _kill_server(name: str) -> Callable[[Round], None]:
    def strike(one: Round) -> None:
        server = getattr(one.site, name)
        server.send(signal.SIGKILL)
        time.sleep(one.rng.uniform(0.0, 1.0))
        server.start()

    return strike


STRIKES: Final[dict[str, Callable[[Round], None]]] = {
    "kill -9 worker": lambda one: one.site.kill(f"worker-{one.rng.randint(1, 2)}"),
    "kill -9 api": lambda one: one.site.kill("api"),
    "kill -9 redis": _kill_server("state"),
    "kill -9 rabbitmq": _kill_server("rabbit"),
}


def held_pictures(one: Round) -> None:
    load = Load(one.site.url, one.rng, one.jobs, SECONDS, body=body_of)
    _moderated(one, load.seeds)
    asker = Asker(one, load)
    one.loads.append(load)
    load.start()
    asker.start()
    try:
        # All four in four rounds, two in each.
        names = list(STRIKES)
        first = one.history.seed % len(names)
        for number, name in enumerate((names[first], names[(first + 1 + one.rng.randrange(3)) % len(names)])):
            load.after(int(one.jobs * (0.2 + 0.35 * number + one.rng.uniform(0.0, 0.15))))
            one.fault(name)
            STRIKES[name](one)
            one.site.ensure()
        one.healed()
        one.history.allowed = frozenset({"succeeded", "failed"})
        one.end()
    finally:
        shown = asker.stop()
    one.note("questions", asker.asked)
    one.find(asker.asked > one.jobs, f"only {asker.asked} questions were answered")
    for each in shown[:5]:
        one.find(False, each)
    seeds = {each.job_id: each.seed for each in one.history.accepted} | asker.jobs
    for job_id, seed in seeds.items():
        final = one.history.finals.get(job_id)
        wanted = ("failed", "content_blocked") if kind_of(seed) == BLOCKED else ("succeeded", "")
        ended = None if final is None else (final.status, final.code)
        one.find(ended == wanted, f"{job_id} of {PROMPTS[kind_of(seed)]} ended {ended}")
    _decided(one, {job_id: seed for job_id, seed in seeds.items() if kind_of(seed) == HELD})


def _moderated(one: Round, seeds: set[int]) -> None:
    """Writes the policy with its list of known pictures, and starts the processes with it."""
    folder = Path(one.site.folder) / "policy"
    folder.mkdir(exist_ok=True)
    known = [blob_name(file_of(seed), "png").partition(".")[0] for seed in seeds if kind_of(seed) == BLOCKED]
    rows = [f"Samples,sha256,{digest},X," for digest in known]
    (folder / "known.csv").write_text("\n".join(["collab,signal_type,signal_str,category,tags", *rows, ""]))
    import_list(folder / "known.csv", folder / "known.pdq", "known")
    (folder / "words.txt").write_text("sword\n")
    (folder / "policy.yaml").write_text(POLICY)
    one.site.end()
    one.site.extra["DARKROOM_MODERATION"] = str(folder / "policy.yaml")
    one.site.ensure()


def _decided(one: Round, jobs: dict[str, int]) -> None:
    """Every held picture has its file and one review with all its jobs. Half of them are released and half refused, while the API is
    killed: then their owners see the one half, and the other half never."""
    with client(one.site.url) as http:
        reviews = {review["name"]: review for review in _reviews(http)}
        held = {blob_name(file_of(seed), "png"): seed for seed in one.loads[0].seeds if kind_of(seed) == HELD}
        asked = {blob_name(file_of(seed), "png") for seed in jobs.values()}
        one.find(
            asked <= set(reviews) <= set(held), f"{len(asked)} are held, and {len(reviews)} have a review"
        )
        reviews = {name: review for name, review in reviews.items() if name in held}
        # A job whose client got no answer may be there too.
        listed = [job["id"] for review in reviews.values() for job in review["jobs"]]
        one.find(set(jobs) <= set(listed), f"{len(set(jobs) - set(listed))} jobs are held, and in no review")
        one.find(len(listed) == len(set(listed)), "a job is in a review twice")
        one.find(set(listed) <= set(one.history.finals), "a review names a job that nobody knows")
        for name in reviews:
            picture = http.get(f"{REVIEWS}/{name}/picture", headers=_KEY)
            one.find(picture.content == file_of(held[name]), f"{name} has lost its file")
        choices = {name: ("release", "refuse")[at % 2] for at, name in enumerate(sorted(reviews))}
        killed = one.rng.randrange(len(choices)) if choices else -1
        for at, (name, choice) in enumerate(choices.items()):
            thread = threading.Thread(target=_decide, args=[one.site.url, name, choice])
            thread.start()
            if at == killed:
                time.sleep(one.rng.uniform(0.0, 0.02))
                one.fault("kill -9 api in a decision")
                one.site.kill("api")
                one.site.ensure()
            thread.join(60)
        until = time.monotonic() + DECIDED_S
        for job_id, seed in jobs.items():
            choice = choices.get(blob_name(file_of(seed), "png"), "")
            while (state := _state(http, job_id)) != (choice == "release") and time.monotonic() < until:
                time.sleep(0.05)
            one.find(state == (choice == "release"), f"{job_id} is {state} after {choice}")
        for name, choice in choices.items():
            answer = http.get(f"/v1/images/{name}")
            wanted = file_of(held[name]) if choice == "release" else None
            got = answer.content if answer.status_code == 200 else None
            one.find(got == wanted, f"/v1/images/{name} is {answer.status_code} after {choice}")


def _reviews(http: httpx.Client) -> Iterator[dict[str, Any]]:
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = http.get(REVIEWS, params=query, headers=_KEY).raise_for_status().json()
        for each in page["data"]:
            detail = http.get(f"{REVIEWS}/{each['name']}", headers=_KEY)
            yield detail.raise_for_status().json()
        if page["next_cursor"] is None:
            return
        query["after"] = page["next_cursor"]


def _decide(url: str, name: str, choice: str) -> None:
    """Until it is known to be decided: an API that is killed may have noted it or not."""
    until = time.monotonic() + DECIDED_S
    with client(url) as http:
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                answer = http.post(f"{REVIEWS}/{name}/{choice}", headers=_KEY)
                if answer.status_code in (200, 409):
                    return
            time.sleep(0.1)


def _state(http: httpx.Client, job_id: str) -> bool | None:
    """Whether the owner sees the picture; None: it still waits for a person."""
    answer = http.get(f"/v1/jobs/{job_id}").raise_for_status()
    (image,) = json.loads(answer.text)["images"]
    if image["moderation"]["verdict"] == "in_review":
        return None
    return image["url"] is not None


HELD_ROWS: Final = (
    Row(
        52,
        "held and blocked pictures under kill -9 of workers, API, Redis and RabbitMQ, and of the API in a decision",
        "ALDT",
        held_pictures,
        jobs=90,
        settings={"DARKROOM_ADMIN_KEY": ADMIN_KEY},
    ),
)
