"""Passwords of the chart: where they come from, and how they are changed while the platform runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from amqp.exceptions import AccessRefused
from kombu import Connection

from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.tenancy import new_token
from tests.helm.chart import Rendered, RenderError, render
from tests.helm.load import Load
from tests.helm.run_rendered import LocalCluster, local_cluster, services

FAKE: dict[str, Any] = {
    "model": "fake",
    "replicas": 1,
    "settings": {"engine": "fake", "max_batch": 4, "heartbeat_s": 0.5, "lease_s": 5},
}


def bundled(**passwords: str) -> Rendered:
    return render({name: {"bundled": {"password": each}} for name, each in passwords.items()})


def test_a_new_password_restarts_its_server_and_all_that_use_it() -> None:
    def checksums(rendered: Rendered) -> dict[str, Any]:
        made = [*rendered.every("StatefulSet"), *rendered.every("Deployment")]
        return {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"].get("annotations") for each in made
        }

    before = checksums(bundled(rabbitmq="a", redis="b"))
    after = checksums(bundled(rabbitmq="c", redis="b"))
    assert before == checksums(bundled(rabbitmq="a", redis="b"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == before.keys() - {"rel-darkroom-redis"}
    assert "rel-darkroom-redis" in {
        name for name, each in checksums(bundled(rabbitmq="a", redis="d")).items() if each != before[name]
    }


def test_the_bundled_rabbitmq_takes_a_new_password(tmp_path: Path) -> None:
    """A broker with the rendered configuration keeps its messages, and forgets the old password, over a change."""
    server = RabbitServer(tmp_path / "rabbit")

    def configure(password: str) -> str:
        rendered = bundled(rabbitmq=password)
        pod = rendered.one("StatefulSet", "-rabbitmq")["spec"]["template"]["spec"]
        (secret,) = [each["secret"] for each in pod["volumes"] if "secret" in each]
        data = rendered.one("Secret", secret["secretName"])["stringData"]
        for item in secret["items"]:
            (tmp_path / item["path"]).write_text(data[item["key"]])
        env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        text = (tmp_path / Path(str(env["RABBITMQ_CONFIG_FILE"])).name).read_text()
        server.config = text.replace("/etc/darkroom", str(tmp_path))
        host = f"rel-darkroom-rabbitmq.ns.svc:{5672}"
        return str(data["rabbitmq-url"]).replace(host, f"127.0.0.1:{server.port}")

    first = configure('f"irst@/')
    server.start()
    try:
        with Connection(first) as connection:
            connection.SimpleQueue("kept").put("a message")
        second = configure("sec:ond")
        server.start()
        with pytest.raises(AccessRefused), Connection(first) as refused:
            refused.connect()
        with Connection(second) as connection:
            assert connection.SimpleQueue("kept").get(timeout=10).payload == "a message"
    finally:
        server.stop()


def test_a_secret_of_yours_stands_in_place_of_the_charts() -> None:
    """As docs/operations.md says for renders without a cluster: made once, named from then on."""
    once = render().one("Secret")
    fixed = render({"existingSecret": "kept"})
    assert fixed.every("Secret") == []
    assert fixed.objects == render({"existingSecret": "kept"}).objects, "every render is the same"
    asked = set(references(list(fixed.objects)))
    assert {name for name, _ in asked} == {"kept"}
    assert {key for _, key in asked} <= once["stringData"].keys()
    assert render().one("Secret") != once, "without it each render makes new ones"


def references(tree: Any) -> Iterator[tuple[str, str]]:
    """Name and key of every reference to a Secret."""
    match tree:
        case {"secretKeyRef": {"name": name, "key": key}}:
            yield name, key
        case {"parameter": _, "name": name, "key": key}:
            yield name, key
        case {"secretName": name, "items": items}:
            yield from ((name, each["key"]) for each in items)
        case dict():
            for each in tree.values():
                yield from references(each)
        case list():
            for each in tree:
                yield from references(each)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"redis": {"bundled": {"password": "p"}}}, "redis.bundled.password would not be used"),
        ({"auth": {"adminKey": new_token()}}, "auth.adminKey would not be used"),
        (
            {"externalSecrets": {"enabled": True, "storeRef": {"name": "v"}}},
            "externalSecrets writes a Secret",
        ),
    ],
)
def test_a_value_that_would_not_be_used_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RenderError, match=words):
        render({"existingSecret": "kept", **values})


def test_passwords_are_in_no_pod() -> None:
    rendered = bundled(rabbitmq="hidden-one", redis="hidden-two")
    assert {each["kind"] for each in rendered.objects if "hidden" in json.dumps(each)} == {"Secret"}
    assert yaml.safe_load(rendered.one("Secret")["stringData"]["rabbitmq-definitions.json"])["users"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_admin_key_and_broker_password_change_under_load(
    cluster: LocalCluster, rabbit_server: RabbitServer, redis_server: RedisServer
) -> None:
    """The steps of docs/operations.md: a second user and a second key, both, until nobody uses the first."""

    def given(user: str, key: str) -> dict[str, Any]:
        urls = services(rabbit_server, redis_server, 9)
        urls["rabbitmq"]["url"] = rabbit_server.url.replace("guest:guest", f"{user}:pass-{user}")
        return {
            **urls,
            "auth": {"adminKey": key},
            "api": {"shutdownDelaySeconds": 1, "replicas": 2},
            "models": {"emoji-turbo": None, "fake": FAKE},
        }

    def user(name: str) -> None:
        rabbit_server.control("add_user", name, f"pass-{name}")
        rabbit_server.control("set_permissions", name, ".*", ".*", ".*")

    old, new = new_token(), new_token()
    user("one")
    cluster.apply(render(given("one", old)))
    url = cluster.url("-api")

    def asks(key: str) -> httpx.Response:
        return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})

    made = httpx.post(
        f"{url}/v1/keys",
        json={"tenant": "rotation", "scopes": ["generate", "admin"]},
        headers={"Authorization": f"Bearer {old}"},
    )
    assert made.status_code == 201, made.text
    bridge = made.json()["key"]
    with Load(url, bridge) as load:
        load.more(5)
        user("two")
        cluster.apply(render(given("two", new)))
        rabbit_server.control("delete_user", "one")
        load.more(10)
    assert load.faults == []
    assert load.ended == {"succeeded": load.ended.total()}
    assert [pod.name for pod in cluster.gone if pod.killed or pod.exit_code != 0] == []
    assert (asks(old).status_code, asks(new).status_code) == (401, 200)
    cluster.close()
    rabbit_server.control("delete_user", "two")
