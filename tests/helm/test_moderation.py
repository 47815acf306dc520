"""Moderation in the chart: where the policy is, who reads it, and what reads the meaning of prompts."""

from __future__ import annotations

import pytest

from tests.helm.chart import RenderError, environment, render
from tests.helm.test_templates import pod

FILES = {"policy.yaml": "name: shop\nversion: 1\nrules: {weapons: {words: block}}\n", "own.txt": "tulip\n"}
FOLDER = "/etc/darkroom/moderation"


def test_without_a_policy_nothing_of_it_is_there() -> None:
    rendered = render()
    assert not [each for each in rendered.objects if "moderation" in str(each).lower()]


def test_the_policy_is_a_folder_of_every_process_that_reads_it() -> None:
    rendered = render({"moderation": {"files": FILES}})
    assert rendered.one("ConfigMap", "-moderation")["data"] == FILES
    assert rendered.one("ConfigMap", "-settings")["data"]["DARKROOM_MODERATION"] == f"{FOLDER}/policy.yaml"
    for spec in (pod(rendered, "-api"), pod(rendered)):
        (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["mountPath"] == FOLDER]
        assert mount["readOnly"]
        assert "subPath" not in mount, "a change would never arrive"
        (volume,) = [each for each in spec["volumes"] if each["name"] == mount["name"]]
        assert volume["configMap"] == {"name": "rel-darkroom-moderation"}
    assert len(pod(rendered, "-api")["containers"]) == 1
    assert "DARKROOM_MODERATION_URL" not in environment(pod(rendered, "-api"))


def test_a_new_policy_restarts_no_pod() -> None:
    def annotations(files: dict[str, str]) -> object:
        template = render({"moderation": {"files": files}}).one("Deployment", "-api")["spec"]["template"]
        return template["metadata"]["annotations"]

    assert annotations(FILES) == annotations({**FILES, "own.txt": "rose\n"})


@pytest.mark.parametrize(
    ("values", "volume"),
    [
        ({"existingConfigMap": "mine"}, {"configMap": {"name": "mine"}}),
        ({"existingSecret": "mine", "policy": "p.yaml"}, {"secret": {"secretName": "mine"}}),
    ],
)
def test_the_files_may_be_yours(values: dict[str, str], volume: dict[str, object]) -> None:
    rendered = render({"moderation": values})
    assert {"name": "moderation", **volume} in pod(rendered, "-api")["volumes"]
    setting = rendered.one("ConfigMap", "-settings")["data"]["DARKROOM_MODERATION"]
    assert setting == f"{FOLDER}/{values.get('policy', 'policy.yaml')}"


def test_meaning_is_read_inside_the_pod_of_the_api() -> None:
    rendered = render({"moderation": {"files": FILES, "meaning": {"enabled": True}}})
    spec = pod(rendered, "-api")
    (beside,) = [each for each in spec["containers"] if each["name"] == "moderation"]
    assert (beside["command"], beside["image"]) == (
        ["python", "-m", "moderation"],
        "darkroom-worker-cpu:0.2.0",
    )
    env = {each["name"]: each.get("value") for each in beside["env"]}
    assert (
        environment(spec)["DARKROOM_MODERATION_URL"] == f"http://127.0.0.1:{env['DARKROOM_MODERATION_PORT']}"
    )
    assert "DARKROOM_MODERATION_HOST" not in env, "it listens to the pod alone"
    assert FOLDER in {each["mountPath"] for each in beside["volumeMounts"]}
    assert len(pod(rendered)["containers"]) == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"files": {"other.yaml": "a"}}, "moderation.files has no policy.yaml"),
        ({"files": FILES, "existingSecret": "mine"}, "one of files, existingConfigMap and existingSecret"),
        ({"meaning": {"enabled": True}}, "there is no policy"),
        ({"file": {}}, "file"),
    ],
)
def test_values_that_contradict_are_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(RenderError) as refused:
        render({"moderation": values})
    assert told in str(refused.value)


def test_a_second_look_is_off_until_it_is_asked_for() -> None:
    rendered = render({"moderation": {"files": FILES}})
    assert not [each for each in rendered.objects if "second-look" in each["metadata"]["name"]]


def test_a_second_look_has_processes_of_its_own_that_vote_as_reviewers_do() -> None:
    values = {
        "moderation": {
            "files": FILES,
            "secondLook": {
                "enabled": True,
                "existingSecret": "mine",
                "settings": {"second_look_concurrency": 2},
            },
        },
        "api": {"settings": {"reviewers": 2, "review_undo_s": 60, "max_waits": 9}},
    }
    rendered = render(values)
    spec = pod(rendered, "-second-look")
    (container,) = spec["containers"]
    assert (container["command"], container["image"]) == (
        ["python", "-m", "second_look"],
        "darkroom-api:0.2.0",
    )
    env = environment(spec)
    assert (env["DARKROOM_REVIEWERS"], env["DARKROOM_REVIEW_UNDO_S"]) == ("2", "60")
    assert env["DARKROOM_SECOND_LOOK_CONCURRENCY"] == "2"
    assert "DARKROOM_MAX_WAITS" not in env
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert {FOLDER, "/blobs", "/etc/darkroom/second-look"} <= set(mounts)
    (secret,) = [each["secret"] for each in spec["volumes"] if each["name"] == "second-look"]
    assert secret == {"secretName": "mine", "items": [{"key": "api-key", "path": "api-key"}]}
    assert "mine" not in str(pod(rendered, "-api")), "nobody else gets the endpoint's key"


def test_a_second_look_goes_where_the_operator_says() -> None:
    values = {"moderation": {"files": FILES, "secondLook": {"enabled": True}}}
    (rule,) = render(values).one("NetworkPolicy", "-second-look")["spec"]["egress"]
    assert rule == {"ports": [{"port": 443}]}
    inner = [{"to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}], "ports": [{"port": 8000}]}]
    rendered = render({**values, "networkPolicy": {"secondLookEgress": inner}})
    assert rendered.one("NetworkPolicy", "-second-look")["spec"]["egress"] == inner


def test_a_second_look_needs_a_policy() -> None:
    with pytest.raises(RenderError, match=r"secondLook\.enabled is true, but there is no policy"):
        render({"moderation": {"secondLook": {"enabled": True}}})
