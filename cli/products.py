"""Which server it is that speaks Redis' protocol, and from which version on it can hold the jobs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

OLDEST: Final = {
    # ZRANGE BYSCORE and ZADD GT: https://redis.io/docs/latest/commands/zrange/
    "Redis": (6, 2),
    # Its first version, which has all that Redis 7.2 has: https://valkey.io/topics/migration/
    "Valkey": (7, 2),
}
"""The products that the platform is tested on."""
# Each keeps `redis_version` for the Redis that it is compatible with, and tells its own beside it.
_OWN: Final = {"valkey_version": "Valkey", "dragonfly_version": "Dragonfly", "garnet_version": "Garnet"}


@dataclass(frozen=True, slots=True)
class Product:
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def tested(self) -> bool:
        return self.name in OLDEST

    @property
    def too_old(self) -> bool:
        """Whether a tested product is older than what the platform needs."""
        return self.tested and _number(self.version) < OLDEST[self.name]


def product(info: Mapping[str, Any]) -> Product:
    """From the answer to INFO: https://valkey.io/commands/info/."""
    for key, name in _OWN.items():
        if key in info:
            return Product(name, str(info[key]))
    named = str(info.get("server_name", "redis"))
    return Product("Redis" if named == "redis" else named.capitalize(), str(info["redis_version"]))


def _number(version: str) -> tuple[int, ...]:
    """The first two parts; `9.1.0-rc1` is 9.1."""
    parts = version.split(".")[:2]
    return tuple(int("".join(filter(str.isdigit, part.partition("-")[0])) or 0) for part in parts)
