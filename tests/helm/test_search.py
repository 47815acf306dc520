"""The search in the chart: its process, its index, and the token that it shares with the API."""

from __future__ import annotations

from tests.helm.chart import environment, render
from tests.helm.test_templates import pod


def test_the_search_is_off_until_it_is_asked_for() -> None:
    rendered = render()
    assert [
        each["metadata"]["name"] for each in rendered.objects if "search" in each["metadata"]["name"]
    ] == []
    assert not [name for name in environment(pod(rendered, "-api")) if "SEARCH" in name]
    assert "DARKROOM_CLIP" not in environment(pod(rendered))
    assert "search-token" not in rendered.one("Secret")["stringData"]


def test_a_search_keeps_its_index_on_a_volume() -> None:
    rendered = render({"search": {"enabled": True, "settings": {"search_concurrency": 4}}})
    spec = pod(rendered, "-search")
    env = environment(spec)
    assert (spec["containers"][0]["command"], spec["containers"][0]["image"]) == (
        ["python", "-m", "search"],
        "darkroom-worker-cpu:0.2.0",
    )
    assert env["DARKROOM_SEARCH_INDEX"] == "embedded:/index"
    assert env["DARKROOM_SEARCH_CONCURRENCY"] == "4"
    assert env["DARKROOM_CLIP"] == environment(pod(rendered))["DARKROOM_CLIP"] == "models/emoji-clip"
    mounts = {each["mountPath"]: each["name"] for each in spec["containers"][0]["volumeMounts"]}
    (claim,) = [each for each in spec["volumes"] if each["name"] == mounts["/index"]]
    assert claim["persistentVolumeClaim"]["claimName"] == "rel-darkroom-index"
    assert rendered.one("PersistentVolumeClaim", "-index")["spec"]["accessModes"] == ["ReadWriteOnce"]
    deployment = rendered.one("Deployment", "-search")["spec"]
    assert (deployment["strategy"], deployment["replicas"]) == ({"type": "Recreate"}, 1), "one process has it"
    assert [each for each in rendered.every("PodDisruptionBudget") if "-search" in str(each)] == []
    mine = render({"search": {"enabled": True, "index": {"existingClaim": "mine"}}})
    assert {"name": "index", "persistentVolumeClaim": {"claimName": "mine"}} in pod(mine, "-search")[
        "volumes"
    ]


def test_the_api_and_the_search_share_a_token() -> None:
    rendered = render({"search": {"enabled": True}})
    api, search = (environment(pod(rendered, name)) for name in ("-api", "-search"))
    assert api["DARKROOM_SEARCH_URL"] == "http://rel-darkroom-search:8010"
    assert api["DARKROOM_SEARCH_TOKEN"] == search["DARKROOM_SEARCH_TOKEN"]
    assert api["DARKROOM_SEARCH_TOKEN"]["secretKeyRef"]["key"] == "search-token"
    assert len(rendered.one("Secret")["stringData"]["search-token"]) == 43
    assert not [name for name in environment(pod(rendered)) if "SEARCH" in name], "workers ask nothing of it"
    (port,) = rendered.one("Service", "-search")["spec"]["ports"]
    named = {
        each["name"]: each["containerPort"] for each in pod(rendered, "-search")["containers"][0]["ports"]
    }
    assert (port["port"], named[port["targetPort"]]) == (8010, int(search["DARKROOM_SEARCH_PORT"]))


def test_an_index_on_a_server_has_several_processes() -> None:
    url = "postgresql://u:hidden@h/search"
    rendered = render({"search": {"enabled": True, "replicas": 3, "index": {"url": url}}})
    assert [each["kind"] for each in rendered.objects if "hidden" in str(each)] == ["Secret"]
    env = environment(pod(rendered, "-search"))
    assert env["DARKROOM_SEARCH_INDEX"]["secretKeyRef"]["key"] == "search-index-url"
    assert rendered.one("Deployment", "-search")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert rendered.one("PodDisruptionBudget", "-search")["spec"]["maxUnavailable"] == 1
    assert "index" not in {each["name"] for each in pod(rendered, "-search")["volumes"]}
    assert [each for each in rendered.every("PersistentVolumeClaim") if "index" in str(each)] == []


def test_a_second_model_keeps_its_vectors_where_the_index_is() -> None:
    rendered = render({"search": {"enabled": True, "rerankClip": "openai/clip-vit-large-patch14"}})
    env = environment(pod(rendered, "-search"))
    assert env["DARKROOM_RERANK_CLIP"] == "openai/clip-vit-large-patch14"
    assert env["DARKROOM_RERANK_CACHE"] == "/index/rerank.sqlite3"
    url = {"index": {"url": "redis://h/0"}}
    remote = environment(
        pod(render({"search": {"enabled": True, "rerankClip": "models/emoji-clip", **url}}), "-search")
    )
    assert "DARKROOM_RERANK_CACHE" not in remote
    assert "DARKROOM_RERANK_CLIP" not in environment(pod(render({"search": {"enabled": True}}), "-search"))


def test_api_and_search_have_one_floor_of_similarity() -> None:
    rendered = render({"search": {"enabled": True, "similarFloor": 0.995}})
    for name in ("-api", "-search"):
        assert environment(pod(rendered, name))["DARKROOM_SIMILAR_FLOOR"] == "0.995"
    off = render({"search": {"enabled": True}})
    for name in ("-api", "-search"):
        assert "DARKROOM_SIMILAR_FLOOR" not in environment(pod(off, name))
