"""The forms of the addresses in settings: what is none stops a process at its entry. No message repeats an address, for it may hold a
password."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator

REDIS: Final = ("redis", "rediss")
REDIS_GROUPS: Final = ("redis+sentinel", "redis+cluster")
"""Several hosts in one address."""
BROKERS: Final = ("amqp", "amqps", *REDIS)
TLS_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""Parameters of an `amqps://` address: the authority, our certificate, its key. `rediss://` has redis-py's, of the same names."""
_HOST: Final = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}", re.ASCII)


def _checked(text: str, schemes: Sequence[str], *, database: bool) -> str:
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError("its host or port is none") from None
    if parts.scheme not in schemes:
        raise ValueError(f"it must begin with {', '.join(f'{scheme}://' for scheme in schemes)}")
    # The names of DNS have no empty part: looking one up would raise an error of another kind.
    if not host or port == 0 or host.startswith(".") or ".." in host or any(map(str.isspace, text)):
        raise ValueError(f"it must name a host, as {schemes[0]}://host does")
    if database and not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError("its path must be the number of a database, as in /0")
    return text


def redis_url(text: str) -> str:
    """One Redis, a Sentinel group or a cluster. Raises `ValueError`."""
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
    """RabbitMQ or Redis; of RabbitMQ several nodes, separated by semicolons, as kombu reads them. Raises `ValueError`."""
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


def web_url(text: str) -> str:
    """A server, perhaps with a path. Raises `ValueError`."""
    if "?" in text or "#" in text:
        raise ValueError("it must have no query and no fragment")
    return _checked(text, ("https", "http"), database=False)


RedisUrl = Annotated[str, AfterValidator(redis_url)]
BrokerUrl = Annotated[str, AfterValidator(broker_url)]
WebUrl = Annotated[str, AfterValidator(web_url)]


def is_cluster(url: str) -> bool:
    """Whether the URL names the nodes of a Redis Cluster, where no script reaches beyond one hash slot."""
    return url.startswith("redis+cluster://")
