"""Validation of the URLs in settings. A malformed one stops the process when it starts.

No message repeats a URL, since it may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator

REDIS: Final = ("redis", "rediss")
REDIS_GROUPS: Final = ("redis+sentinel", "redis+cluster")
"""Schemes of URLs that name several hosts."""
POSTGRES: Final = ("postgresql", "postgres")
BROKERS: Final = ("amqp", "amqps", *REDIS)
TLS_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""Parameters of an `amqps://` URL: the CA file, our certificate and its key. redis-py has the same
names for `rediss://`."""
_HOST: Final = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}", re.ASCII)


def _checked(text: str, schemes: Sequence[str], *, database: bool) -> str:
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError("its host or port is none") from None
    if parts.scheme not in schemes:
        raise ValueError(f"it must begin with {', '.join(f'{scheme}://' for scheme in schemes)}")
    # DNS names have no empty part. Resolving such a name would raise an error of another type.
    if not host or port == 0 or host.startswith(".") or ".." in host or any(map(str.isspace, text)):
        raise ValueError(f"it must name a host, as {schemes[0]}://host does")
    if database and not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError("its path must be the number of a database, as in /0")
    return text


def redis_url(text: str) -> str:
    """Check the URL of one Redis, a Sentinel group or a cluster, and return it. Raises `ValueError`."""
    scheme, _, rest = text.partition("://")
    if scheme not in REDIS_GROUPS:
        return _checked(text, (*REDIS, *REDIS_GROUPS), database=True)
    hosts, _, name = rest.rpartition("@")[2].partition("/")
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        raise ValueError(f"{scheme}:// needs host:port,host:port ...")
    if scheme == "redis+sentinel" and not re.fullmatch(r"[^/\s]+(/\d*)?", name):
        raise ValueError("redis+sentinel:// needs the name of the group: host:port/NAME/DB")
    return text


def broker_url(text: str) -> str:
    """Check the URL of RabbitMQ or Redis, and return it. Raises `ValueError`.

    Several RabbitMQ nodes are separated by semicolons, as kombu reads them.
    """
    for part in text.split(";"):
        _checked(part, BROKERS, database=part.startswith("redis"))
        if part.startswith("amqp"):
            query = parse_qs(urlsplit(part).query, keep_blank_values=True)
            named = {name for name in query if name.startswith("ssl_")}
            if named and not part.startswith("amqps:"):
                raise ValueError("files of certificates belong to amqps://")
            if named - TLS_FILES:
                raise ValueError(f"of TLS it may say {', '.join(sorted(TLS_FILES))}")
    return text


def postgres_url(text: str) -> str:
    """Check the URL of a PostgreSQL database, and return it. Raises `ValueError`."""
    _checked(text, POSTGRES, database=False)
    if not urlsplit(text).path.strip("/"):
        raise ValueError("it must name a database, as postgresql://host/database does")
    return text


def web_url(text: str) -> str:
    """Check the URL of a web server, perhaps with a path, and return it. Raises `ValueError`."""
    if "?" in text or "#" in text:
        raise ValueError("it must have no query and no fragment")
    return _checked(text, ("https", "http"), database=False)


RedisUrl = Annotated[str, AfterValidator(redis_url)]
BrokerUrl = Annotated[str, AfterValidator(broker_url)]
WebUrl = Annotated[str, AfterValidator(web_url)]


def is_cluster(url: str) -> bool:
    """Whether the URL names a Redis Cluster, where a script can use only one hash slot."""
    return url.startswith("redis+cluster://")
