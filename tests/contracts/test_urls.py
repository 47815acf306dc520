"""Addresses in settings: their forms, and that no message repeats one."""

from __future__ import annotations

import pytest

from contracts.errors import SettingsError
from contracts.settings import BackendSettings

GOOD = {
    "DARKROOM_REDIS_URL": [
        "redis://127.0.0.1:6379/0",
        "redis://h",
        "rediss://:p%40@redis.example:6380/1",
        "redis://[::1]:6379/0",
        "redis+sentinel://u:p@a:1,b:2/name/0",
        "redis+sentinel://a:1/name",
        "redis+cluster://a:1,[::1]:2",
    ],
    "DARKROOM_BROKER_URL": [
        "amqp://guest:guest@127.0.0.1:5672//",
        "amqps://u:p@h/vhost",
        "amqp://a//;amqp://b//",
        "amqps://h//?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k",
        "amqp://h//?heartbeat=30",
        "redis://h:1/1",
    ],
    "DARKROOM_PUBLIC_URL": ["https://darkroom.example", "http://h:8000/path/"],
    "DARKROOM_OTLP_ENDPOINT": ["http://collector:4318"],
}
BAD = {
    "DARKROOM_REDIS_URL": [
        "secret",
        "http://secret",
        "redis://secret:port/0",
        "redis://secret:99999/0",
        "redis://secret@/x",
        "redis://secret/name",
        "redis+sentinel://secret:1",
        "redis+sentinel://secret/name",
        "redis+cluster://secret:1,h",
        "redis+cluster://:secret",
        "redis://[secret",
    ],
    "DARKROOM_CACHE_REDIS_URL": ["secret"],
    "DARKROOM_BROKER_URL": [
        "secret",
        "amqp://secret:port//",
        "kafka://secret",
        "amqp://a//;secret",
        "amqp:///secret",
        "amqp://h//?ssl_ca_certs=/secret",
        "amqps://h//?ssl_cert_reqs=secret",
        "amqps://h//?ssl_check_hostname=secret",
        "amqps://a//;amqps://b//?ssl_secret=x",
    ],
    "DARKROOM_PUBLIC_URL": ["secret", "ftp://secret", "https://", "https://secret host"],
    "DARKROOM_OTLP_ENDPOINT": ["secret:4318"],
    "DARKROOM_BLOB_S3_ENDPOINT": ["secret"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in GOOD.items() for value in values]
)
def test_what_is_an_address_is_taken(name: str, value: str) -> None:
    assert BackendSettings.from_env({name: value}).to_env()[name] == value


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_what_is_none_is_refused_by_the_name_of_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as error:
        BackendSettings.from_env({name: value})
    assert "secret" not in str(error.value)
