"""Who may reach whom, under which names, and with which certificates."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import Rendered, render

KEDA = {"models": {"emoji-turbo": {"autoscaling": {"enabled": True}}}}
DOWNLOADED = {"revision": "v1", "download": {"enabled": True}}


def selected(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a NetworkPolicy is for pods with these labels."""
    selector = policy["spec"]["podSelector"]
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


def open_ports(rendered: Rendered, kind: str, name: str) -> set[int]:
    """Ports that a workload's pods may call anywhere."""
    labels = rendered.one(kind, name)["spec"]["template"]["metadata"]["labels"]
    rules = [
        rule
        for policy in rendered.every("NetworkPolicy")
        if selected(policy, labels)
        for rule in policy["spec"].get("egress", [])
    ]
    return {port["port"] for rule in rules if "to" not in rule for port in rule["ports"]}


def test_keda_reaches_the_bundled_rabbitmq_from_its_namespace() -> None:
    rendered = render(KEDA)
    reference = rendered.one("TriggerAuthentication")["spec"]["secretTargetRef"][0]
    url = rendered.one("Secret", reference["name"])["stringData"][reference["key"]]
    assert "@rel-darkroom-rabbitmq.ns.svc:5672/" in url, "a bare name is looked up in KEDA's own namespace"
    ours, keda = rendered.one("NetworkPolicy", "-rabbitmq")["spec"]["ingress"]
    assert keda["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}]
    assert keda["ports"] == ours["ports"] == [{"port": 5672}]
    theirs = [{"namespaceSelector": {"matchLabels": {"team": "scaling"}}}]
    other = render({**KEDA, "networkPolicy": {"kedaFrom": theirs}})
    assert other.one("NetworkPolicy", "-rabbitmq")["spec"]["ingress"][1]["from"] == theirs
    assert len(render().one("NetworkPolicy", "-rabbitmq")["spec"]["ingress"]) == 1, "no KEDA, no way in"
    assert len(rendered.one("NetworkPolicy", "-redis")["spec"]["ingress"]) == 1


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("https://collector.example", 443),
        ("https://collector.example/otlp", 443),
        ("http://collector.example", 80),
        ("http://collector:4318", 4318),
        ("http://collector:4317/otlp", 4317),
        ("https://user:1234@collector:8443/x:99", 8443),
        ("http://[::1]:4318", 4318),
        ("http://[2001:db8::1234]", 80),
    ],
)
def test_the_collectors_port_is_open(endpoint: str, port: int) -> None:
    rendered = render({"tracing": {"endpoint": endpoint}})
    assert open_ports(rendered, "Deployment", "-api") == {53, port}


def test_sentinels_are_reached() -> None:
    url = "redis+sentinel://a:26379,b:26379/main/0"
    rendered = render({"redis": {"url": url, "bundled": {"enabled": False}}})
    (rule,) = [
        each
        for each in rendered.one("NetworkPolicy", "-services")["spec"]["egress"]
        if "ipBlock" in str(each)
    ]
    assert {6379, 26379} <= {each["port"] for each in rule["ports"]}


def test_webhooks_reach_no_link_local_address() -> None:
    def blocks(values: dict[str, Any]) -> list[dict[str, Any]]:
        (rule,) = render(values).one("NetworkPolicy", "-receivers")["spec"]["egress"]
        return [each["ipBlock"] for each in rule["to"]]

    assert blocks({}) == [
        {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]},
        {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]},
    ]
    assert blocks({"networkPolicy": {"webhookExcept": ["10.0.0.0/8"]}}) == [
        {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]},
        {"cidr": "::/0"},
    ]


def test_the_hub_is_for_those_who_fetch() -> None:
    def hub(kind: str, name: str, **values: Any) -> bool:
        models = {"emoji-turbo": DOWNLOADED, "other": {"model": "o/o"}, **values.pop("models", {})}
        cache = {"enabled": values.pop("cache", True)}
        rendered = render({"models": models, "modelCache": cache, **values})
        if kind == "Job":
            name = rendered.one("Job")["metadata"]["name"]
        return 443 in open_ports(rendered, kind, name)

    assert hub("Job", "")
    assert not hub("Deployment", "-worker-emoji-turbo"), "its model comes by the Job"
    assert hub("Deployment", "-worker-emoji-turbo", cache=False), "its own pod fetches it"
    assert hub("Deployment", "-worker-other")
    adapters = {"emoji-turbo": {**DOWNLOADED, "settings": {"loras": "ink=owner/ink@" + "0" * 40}}}
    assert hub("Deployment", "-worker-emoji-turbo", models=adapters)
    assert hub("Deployment", "-worker-emoji-turbo", settings={"vae": "tiny"})
    assert hub("Deployment", "-worker-emoji-turbo", settings={"clip": "owner/clip"})
    assert not hub("Deployment", "-worker-emoji-turbo", settings={"clip": "models/emoji-clip"}), (
        "it is in the image"
    )
    assert hub("Deployment", "-worker-emoji-turbo", search={"enabled": True, "clip": "owner/clip"})
    assert not hub("Deployment", "-worker-emoji-turbo", search={"enabled": True})
    assert not hub("Deployment", "-worker-other", networkPolicy={"allowHub": False})


def test_the_api_alone_reaches_the_search() -> None:
    def ways_out(values: dict[str, Any]) -> set[int]:
        rendered = render({"search": {"enabled": True, **values}})
        labels = rendered.one("Deployment", "-search")["spec"]["template"]["metadata"]["labels"]
        rules = [
            rule
            for policy in rendered.every("NetworkPolicy")
            if selected(policy, labels)
            for rule in policy["spec"].get("egress", [])
        ]
        return {port["port"] for rule in rules for port in rule["ports"]}

    rendered = render({"search": {"enabled": True}})
    component = "app.kubernetes.io/component"
    (rule,) = rendered.one("NetworkPolicy", "-search")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "search"}]
    assert [each["podSelector"]["matchLabels"][component] for each in rule["from"]] == ["api"]
    out = rendered.one("NetworkPolicy", "-searches")["spec"]
    assert out["podSelector"]["matchLabels"][component] == "api"
    assert out["egress"][0]["to"][0]["podSelector"]["matchLabels"][component] == "search"
    labels = rendered.one("Deployment", "-search")["spec"]["template"]["metadata"]["labels"]
    scraped = rendered.one("NetworkPolicy", "-worker")
    assert selected(scraped, labels)
    assert scraped["spec"]["ingress"][0]["ports"] == [{"port": "metrics"}]
    assert ways_out({}) == {53, 5672, 6379}, "the bundled services, and names"
    assert 5432 in ways_out({"index": {"url": "postgresql://u:p@h/d"}})
    assert 443 in ways_out({"clip": "owner/clip"}), "it fetches its CLIP"


def test_certificates_are_files_in_every_pod() -> None:
    rendered = render({"tls": {"existingSecret": "mine"}, "backup": {"enabled": True, "existingClaim": "a"}})
    for name, pod in rendered.pods():
        if name.endswith(("-rabbitmq", "-redis", "-test-picture")):
            continue
        assert {"name": "tls", "secret": {"secretName": "mine"}} in pod["volumes"], name
        mounts = {each["name"]: each for each in pod["containers"][0]["volumeMounts"]}
        assert mounts["tls"] == {"name": "tls", "mountPath": "/etc/darkroom/tls", "readOnly": True}
    assert "/etc/darkroom/tls" not in str(render().objects)
