"""What each template makes of its values, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from contracts.tenancy import TOKEN_PATTERN
from tests.helm.chart import CHART, RenderError, environment, render

TURBO = "-worker-emoji-turbo"
MODEL = "emoji-turbo"


def pod(rendered: Any, ending: str = TURBO) -> dict[str, Any]:
    spec: dict[str, Any] = rendered.one("Deployment", ending)["spec"]["template"]["spec"]
    return spec


def model(**values: Any) -> dict[str, Any]:
    return {"models": {MODEL: values}}


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"api": {"replica": 3}}, "additional properties 'replica' not allowed"),
        ({"apii": {}}, "additional properties 'apii' not allowed"),
        ({"settings": {"job_ttl": 3}}, "additional properties 'job_ttl' not allowed"),
        ({"settings": {"job_ttl_s": -1}}, "exclusiveMinimum"),
        ({"auth": {"adminKey": "secret"}}, "does not match pattern"),
        ({"api": {"settings": {"admin_key": "x"}}}, "additional properties 'admin_key' not allowed"),
        ({"settings": {"redis_url": "redis://x"}}, "additional properties 'redis_url' not allowed"),
        (model(settings={"max_batch": 0}), "minimum: got 0, want 1"),
        (model(settings={"max_batches": 1}), "additional properties 'max_batches' not allowed"),
        (model(flavor="gpu"), "value must be one of 'cpu', 'cuda'"),
        (model(gpu={"count": 1, "mig": "big"}), "does not match pattern"),
        ({"models": {"a model": {"model": "m"}}}, "does not match pattern"),
        ({"image": {"digests": {"api": "latest"}}}, "does not match pattern"),
        ({"tracing": {"sampleRatio": 2}}, "maximum"),
        ({"rabbitmq": {"url": "http://x"}}, "does not match pattern"),
        (model(resources={"limits": {"memory": "4 GB"}}), "does not match pattern"),
        (model(model=""), "models.emoji-turbo.model is empty"),
        (model(drainTimeoutSeconds=60), "a scale-down would end running batches"),
        (model(gpu={"count": 1}), "set flavor to cuda"),
        (model(flavor="cuda"), "flavor is cuda, but gpu.count is 0"),
        ({"workerDefaults": {"flavor": "cuda"}}, "flavor is cuda, but gpu.count is 0"),
        (model(flavor="cuda", gpu={"mig": "1g.10gb"}), "gpu.mig is set, but gpu.count is 0"),
        (model(autoscaling={"enabled": True, "minReplicas": 9}), "minReplicas is above maxReplicas"),
        (
            {"rabbitmq": {"bundled": {"enabled": False}}},
            "rabbitmq: exactly one of url, existingSecret, cluster",
        ),
        ({"redis": {"url": "redis://x"}}, "redis: exactly one of"),
        ({"externalSecrets": {"enabled": True}}, "storeRef.name is empty"),
        ({"blobs": {"enabled": False}}, "name the bucket for the images"),
        ({"ingress": {"enabled": True}}, "ingress.hosts is empty"),
        ({"backup": {"enabled": True}}, "backup.existingClaim is empty"),
        ({"backup": {"maintenance": True}}, "backup.existingClaim is empty"),
        ({"backup": {"schedule": "hourly"}}, "does not match pattern"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
        ({"search": {"enabled": True, "replicas": 2}}, "an index on a volume has one process"),
        ({"search": {"enabled": True, "clip": ""}}, "search.clip is empty"),
        ({"search": {"index": {"url": "mysql://x"}}}, "does not match pattern"),
        ({"search": {"settings": {"search_token": "x"}}}, "additional properties 'search_token' not allowed"),
        (
            {"search": {"enabled": True, "index": {"url": "redis://x", "existingSecret": {"name": "a"}}}},
            "search.index: either url or existingSecret",
        ),
        ({"existingSecret": "mine", "search": {"token": "x"}}, "search.token would not be used"),
    ],
)
def test_what_cannot_work_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RenderError) as refused:
        render(values)
    assert words in str(refused.value)


def test_a_key_is_needed_unless_everybody_is_served() -> None:
    rendered = render()
    token = rendered.one("Secret")["stringData"]["admin-key"]
    assert re.fullmatch(TOKEN_PATTERN, token)
    env = environment(pod(rendered, "-api"))
    assert env["DARKROOM_ADMIN_KEY"]["secretKeyRef"] == {"name": "rel-darkroom-services", "key": "admin-key"}
    assert env["DARKROOM_ALLOW_ANONYMOUS"] == "false"
    assert "DARKROOM_ADMIN_KEY" not in environment(pod(rendered)), "the API's alone"
    test = rendered.one("Pod", "-test-picture")["spec"]
    assert environment(test)["DARKROOM_API_KEY"] == env["DARKROOM_ADMIN_KEY"]
    theirs = render({"auth": {"existingSecret": {"name": "mine", "key": "k"}, "allowAnonymous": True}})
    env = environment(pod(theirs, "-api"))
    assert env["DARKROOM_ADMIN_KEY"]["secretKeyRef"] == {"name": "mine", "key": "k"}
    assert env["DARKROOM_ALLOW_ANONYMOUS"] == "true"
    assert env["DARKROOM_ALLOWED_HOSTS"].split(",")[:2] == ["rel-darkroom-api", "rel-darkroom-api.ns"]
    assert "DARKROOM_ALLOWED_HOSTS" not in environment(pod(rendered, "-api"))
    assert "admin-key" not in theirs.one("Secret")["stringData"]


def test_jobs_are_taken_for_models_that_scale_from_zero() -> None:
    def setting(**scaling: Any) -> Any:
        return environment(pod(render(model(autoscaling=scaling)), "-api")).get("DARKROOM_SCALE_FROM_ZERO")

    assert setting(enabled=True, minReplicas=0) == "true"
    assert setting(enabled=True, minReplicas=1) is None
    assert setting(enabled=False, minReplicas=0) is None


# api ------------------------------------------------------------------------------------------------------------------


def test_the_api_is_an_api() -> None:
    rendered = render({"settings": {"job_ttl_s": 60}, "api": {"settings": {"max_wait_s": 30}, "replicas": 3}})
    deployment = rendered.one("Deployment", "-api")
    assert deployment["spec"]["replicas"] == 3
    container = pod(rendered, "-api")["containers"][0]
    assert container["command"] == ["python", "-m", "api"]
    assert rendered.one("ConfigMap", "-settings")["data"]["DARKROOM_JOB_TTL_S"] == "60"
    env = environment(pod(rendered, "-api"))
    assert (env["DARKROOM_HOST"], env["DARKROOM_PORT"], env["DARKROOM_MAX_WAIT_S"]) == (
        "0.0.0.0",
        "8000",
        "30",
    )
    assert {container[f"{name}Probe"]["httpGet"]["path"] for name in ("readiness", "liveness")} == {
        "/readyz",
        "/healthz",
    }
    assert (
        container["lifecycle"]["preStop"]["sleep"]["seconds"]
        < deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    )


def test_a_scaled_api_has_no_replicas_of_its_own() -> None:
    rendered = render({"api": {"autoscaling": {"enabled": True, "minReplicas": 3}}})
    assert "replicas" not in rendered.one("Deployment", "-api")["spec"]
    scaler = rendered.one("HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["scaleTargetRef"]["name"]) == (3, "rel-darkroom-api")


def test_metrics_are_not_routed_to_the_outside() -> None:
    rendered = render(None, CHART.parents[1] / "tests" / "helm" / "values" / "routes.yaml")
    paths = {
        path["path"]
        for rule in rendered.one("Ingress")["spec"]["rules"]
        for path in rule["http"]["paths"]
        if path["pathType"] == "Prefix"
    }
    route = rendered.one("HTTPRoute")["spec"]["rules"][0]
    prefixes = {each["path"]["value"] for each in route["matches"] if each["path"]["type"] == "PathPrefix"}
    assert paths == prefixes == {"/static", "/v1"}
    assert route["backendRefs"] == [{"name": "rel-darkroom-api", "port": 8080}]


# worker ---------------------------------------------------------------------------------------------------------------


def test_each_model_has_its_workers() -> None:
    rendered = render({"models": {MODEL: None, "Org.Model_v1": {"model": "org/m", "revision": "abc"}}})
    workers = [each for each in rendered.every("Deployment") if "-worker-" in each["metadata"]["name"]]
    assert [each["metadata"]["name"] for each in workers] == ["rel-darkroom-worker-org-model-v1"]
    env = environment(pod(rendered, "-worker-org-model-v1"))
    assert env["DARKROOM_MODEL"] == "org/m"
    assert env["DARKROOM_MODEL_NAME"] == "Org.Model_v1"
    assert env["DARKROOM_MODEL_REVISION"] == "abc"


def test_the_grace_period_outlasts_every_batch() -> None:
    rendered = render(model(batchTimeoutSeconds=300, drainTimeoutSeconds=400))
    env = environment(pod(rendered))
    assert (env["DARKROOM_BATCH_TIMEOUT_S"], env["DARKROOM_DRAIN_TIMEOUT_S"]) == ("300", "400")
    assert pod(rendered)["terminationGracePeriodSeconds"] > 400


def test_a_startup_probe_outlasts_the_loading_of_the_model() -> None:
    probe = pod(render(model(loadTimeoutSeconds=900)))["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > 900


@pytest.mark.parametrize(
    ("gpu", "resource"),
    [
        ({"count": 2}, {"nvidia.com/gpu": 2}),
        ({"count": 1, "mig": "1g.10gb"}, {"nvidia.com/mig-1g.10gb": 1}),
        ({"count": 1, "resource": "nvidia.com/gpu.shared"}, {"nvidia.com/gpu.shared": 1}),
    ],
)
def test_gpus_are_asked_for(gpu: dict[str, Any], resource: dict[str, int]) -> None:
    rendered = render(model(flavor="cuda", gpu=gpu, runtimeClassName="nvidia", nodeSelector={"pool": "gpu"}))
    spec = pod(rendered)
    assert resource.items() <= spec["containers"][0]["resources"]["limits"].items()
    assert (spec["runtimeClassName"], spec["nodeSelector"]) == ("nvidia", {"pool": "gpu"})
    assert spec["containers"][0]["image"] == "darkroom-worker-cuda:0.2.0"
    assert environment(spec)["DARKROOM_DEVICE"] == "cuda"


def test_a_downloaded_model_is_waited_for_and_pinned() -> None:
    def rendered(revision: str) -> Any:
        download = {"enabled": True, "sha256": "0" * 64, "tokenSecret": "hub"}
        values = model(revision=revision, download=download)
        return render({**values, "modelCache": {"enabled": True}})

    first = rendered("v1")
    job = first.one("Job")["spec"]["template"]["spec"]["containers"][0]
    init = pod(first)["initContainers"][0]
    assert job["command"] == init["command"] == ["python", "-m", "worker.download", "models/emoji-turbo"]
    assert set(init["args"]) - set(job["args"]) == {"--wait=3600"}
    assert {"--into=/models/emoji-turbo/v1", "--revision=v1", f"--sha256={'0' * 64}"} == set(job["args"])
    assert environment(pod(first))["DARKROOM_MODEL"] == "/models/emoji-turbo/v1"
    assert "DARKROOM_MODEL_REVISION" not in environment(pod(first)), "the folder is of that revision"
    read_only = [m.get("readOnly") for m in init["volumeMounts"] if m["mountPath"] == "/models"]
    assert read_only == [True], "only the Job writes"
    again = rendered("v2").one("Job")["metadata"]["name"]
    assert again != first.one("Job")["metadata"]["name"], "a Job cannot be changed"


def test_without_a_volume_each_pod_downloads() -> None:
    rendered = render(model(revision="v1", download={"enabled": True}))
    assert rendered.every("Job") == []
    init = pod(rendered)["initContainers"][0]
    assert not [each for each in init["args"] if each.startswith("--wait")]
    assert {"name": "models", "emptyDir": {}} in pod(rendered)["volumes"]


def test_keda_scales_by_queue_wait_and_jobs_in_hand() -> None:
    scaling = {"enabled": True, "minReplicas": 0, "maxReplicas": 5, "predictedWaitSeconds": 7}
    rendered = render({**model(autoscaling=scaling), "keda": {"prometheusUrl": "http://prometheus:9090"}})
    assert "replicas" not in rendered.one("Deployment", TURBO)["spec"]
    spec = rendered.one("ScaledObject")["spec"]
    assert spec["scaleTargetRef"]["name"] == rendered.one("Deployment", TURBO)["metadata"]["name"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 5)
    queue, wait, hand = spec["triggers"]
    assert queue["metadata"]["queueName"] == "darkroom.jobs.emoji-turbo"
    assert "darkroom_predicted_wait_seconds" in wait["metadata"]["query"]
    assert wait["metadata"]["query"].endswith("/ 7)")
    assert wait["metadata"]["threshold"] == "0.9"
    assert "darkroom_worker_jobs" in hand["metadata"]["query"]
    secret = rendered.one("TriggerAuthentication")["spec"]["secretTargetRef"][0]
    assert (secret["name"], secret["key"]) == ("rel-darkroom-services", "rabbitmq-url")
    assert queue["authenticationRef"]["name"] == rendered.one("TriggerAuthentication")["metadata"]["name"]


def test_webhooks_are_sent_by_processes_of_their_own() -> None:
    rendered = render({"webhooks": {"settings": {"webhook_concurrency": 8}, "replicas": 2}})
    spec = pod(rendered, "-webhooks")
    assert spec["containers"][0]["command"] == ["python", "-m", "webhooks"]
    assert spec["containers"][0]["image"] == "darkroom-api:0.2.0"
    assert environment(spec)["DARKROOM_WEBHOOK_CONCURRENCY"] == "8"
    assert "DARKROOM_ADMIN_KEY" not in environment(spec)
    assert rendered.one("Deployment", "-webhooks")["spec"]["replicas"] == 2
    assert rendered.one("NetworkPolicy", "-receivers")["spec"]["policyTypes"] == ["Egress"]
    none = render({"webhooks": {"enabled": False}})
    assert [each["metadata"]["name"] for each in none.every("Deployment") if "webhooks" in str(each)] == []


# services and secrets ---------------------------------------------------------------------------------------------------


def test_bundled_services_have_passwords_and_volumes() -> None:
    rendered = render(
        {"rabbitmq": {"bundled": {"password": "r@b"}}, "redis": {"bundled": {"password": "r:d"}}}
    )
    secret = rendered.one("Secret")["stringData"]
    assert secret["rabbitmq-url"] == "amqp://darkroom:r%40b@rel-darkroom-rabbitmq.ns.svc:5672//"
    assert secret["redis-url"] == "redis://:r%3Ad@rel-darkroom-redis.ns.svc:6379/0"
    assert secret["redis-auth.conf"] == "requirepass r:d\n"
    for each in rendered.every("StatefulSet"):
        assert each["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"
        text = str(each["spec"]["template"])
        assert "r@b" not in text
        assert "r:d" not in text
    redis = rendered.one("StatefulSet", "-redis")["spec"]["template"]["spec"]["containers"][0]
    assert redis["args"][redis["args"].index("--maxmemory-policy") + 1] == "noeviction"
    assert redis["args"][redis["args"].index("--appendonly") + 1] == "yes"


def test_generated_passwords_are_long_and_differ() -> None:
    secret = render().one("Secret")["stringData"]
    assert len(secret["rabbitmq-password"]) == len(secret["redis-password"]) == 32
    assert secret["rabbitmq-password"] != secret["redis-password"]


def test_urls_are_in_secrets_alone() -> None:
    values = {
        "rabbitmq": {"url": "amqp://u:hidden@h//", "bundled": {"enabled": False}},
        "redis": {
            "url": "redis://:hidden@h/0",
            "cacheUrl": "redis://:hidden@c/0",
            "bundled": {"enabled": False},
        },
    }
    rendered = render(values)
    assert [each["kind"] for each in rendered.objects if "hidden" in str(each)] == ["Secret"]
    env = environment(pod(rendered))
    assert env["DARKROOM_CACHE_REDIS_URL"]["secretKeyRef"]["key"] == "redis-cache-url"


def test_an_operators_cluster_is_found_by_its_secret() -> None:
    rendered = render({"rabbitmq": {"cluster": "rabbit", "bundled": {"enabled": False}}})
    ref = environment(pod(rendered))["DARKROOM_BROKER_URL"]["secretKeyRef"]
    assert ref == {"name": "rabbit-default-user", "key": "connection_string"}


def test_a_changed_setting_restarts_the_pods_that_read_it() -> None:
    def checksum(**values: Any) -> str:
        deployment = render(values).one("Deployment", "-api")
        found: str = deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        return found

    assert checksum() == checksum() != checksum(settings={"job_ttl_s": 5})


def test_large_numbers_stay_whole() -> None:
    data = render({"settings": {"queue_max_length": 10_000_000}}).one("ConfigMap", "-settings")["data"]
    assert data["DARKROOM_QUEUE_MAX_LENGTH"] == "10000000"


# network, monitoring, test ------------------------------------------------------------------------------------------------


def test_all_is_denied_but_what_is_needed() -> None:
    rendered = render()
    deny = rendered.one("NetworkPolicy", "-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    for name, workload in rendered.pods():
        labels = next(
            each
            for each in rendered.objects
            if each["metadata"]["name"] == name
            and each["kind"] in ("Deployment", "Job", "Pod", "StatefulSet")
        )
        inner = labels["spec"].get("template", labels)["metadata"]["labels"]
        assert deny["podSelector"]["matchLabels"].items() <= inner.items(), (name, workload)
    redis = rendered.one("NetworkPolicy", "-redis")["spec"]["ingress"][0]
    assert redis["ports"] == [{"port": 6379}]


def test_backups_see_what_the_api_sees() -> None:
    rendered = render({"backup": {"enabled": True, "maintenance": True, "existingClaim": "a", "keep": 3}})
    cron = rendered.one("CronJob", "-backup")["spec"]
    job = cron["jobTemplate"]["spec"]["template"]
    assert cron["concurrencyPolicy"] == "Forbid"
    (container,) = job["spec"]["containers"]
    assert container["command"][-4:] == ["backup", "/backups", "--keep", "3"]
    waits = rendered.one("Deployment", "-maintenance")["spec"]["template"]
    api = pod(rendered, "-api")
    for each in (job, waits):
        theirs = environment(each["spec"])
        assert theirs == {
            name: value
            for name, value in environment(api).items()
            if name in ("DARKROOM_BROKER_URL", "DARKROOM_REDIS_URL")
        }
        assert each["spec"]["containers"][0]["envFrom"] == api["containers"][0]["envFrom"]
        mounts = {mount["mountPath"] for mount in each["spec"]["containers"][0]["volumeMounts"]}
        assert mounts == {"/tmp", "/blobs", "/backups"}
    component = "app.kubernetes.io/component"
    labels = {each["metadata"]["labels"][component] for each in (job, waits)}
    redis = rendered.one("NetworkPolicy", "-redis")["spec"]["ingress"][0]["from"][0]["podSelector"]
    ways_out = rendered.one("NetworkPolicy", "-services")["spec"]["podSelector"]
    for selector in (redis, ways_out):
        (wanted,) = selector["matchExpressions"]
        assert labels <= set(wanted["values"])
    assert [
        each for each in render().objects if each["metadata"]["name"].endswith(("-backup", "-maintenance"))
    ] == []


def test_traces_are_off_until_a_collector_is_named() -> None:
    assert "DARKROOM_OTLP_ENDPOINT" not in render().one("ConfigMap", "-settings")["data"]
    rendered = render({"tracing": {"endpoint": "http://collector:4318", "sampleRatio": 0.5}})
    data = rendered.one("ConfigMap", "-settings")["data"]
    assert data["DARKROOM_OTLP_ENDPOINT"] == "http://collector:4318"
    assert data["DARKROOM_TRACE_SAMPLE_RATIO"] == "0.5"
    ports = [
        p["port"] for r in rendered.one("NetworkPolicy", "-services")["spec"]["egress"] for p in r["ports"]
    ]
    assert 4318 in ports


def test_alerts_keep_their_templates_and_name_their_runbooks() -> None:
    values = {"monitoring": {"prometheusRule": {"enabled": True, "runbookUrl": "https://x/runbooks"}}}
    groups = render(values).one("PrometheusRule")["spec"]["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    assert rules["DarkroomNoWorker"]["annotations"]["runbook_url"] == "https://x/runbooks/DarkroomNoWorker.md"
    assert "{{ $labels.model }}" in rules["DarkroomNoWorker"]["annotations"]["summary"]


def test_helm_test_asks_the_service() -> None:
    test = render({"service": {"port": 8080}}).one("Pod", "-test-picture")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert "--server=http://rel-darkroom-api:8080" in test["spec"]["containers"][0]["args"]
