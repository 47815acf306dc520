"""Identifies a server with Redis' protocol, and says whether its version is new enough. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

OLDEST: Final = {
    # ZRANGE BYSCORE and ZADD GT: https://redis.io/docs/latest/commands/zrange/
    "Redis": (6, 2),
    # Its first version has everything of Redis 7.2: https://valkey.io/topics/migration/
    "Valkey": (7, 2),
}
"""The oldest version of each product that the platform is tested on."""
# In these products `redis_version` is the compatible Redis version. They have another field for their own.
_VERSION_FIELDS: Final = {
    "valkey_version": "Valkey",
    "dragonfly_version": "Dragonfly",
    "garnet_version": "Garnet",
}


@dataclass(frozen=True, slots=True)
class Product:
    """A server product and its version, `9.1.0`."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def tested(self) -> bool:
        """Whether the platform is tested on this product."""
        return self.name in OLDEST

    @property
    def too_old(self) -> bool:
        """Whether a tested product is older than what the platform needs."""
        return self.tested and _number(self.version) < OLDEST[self.name]


def product(info: Mapping[str, Any]) -> Product:
    """Returns the product from the answer to INFO: https://valkey.io/commands/info/."""
    for key, name in _VERSION_FIELDS.items():
        if key in info:
            return Product(name, str(info[key]))
    server_name = str(info.get("server_name", "redis"))
    return Product(
        "Redis" if server_name == "redis" else server_name.capitalize(), str(info["redis_version"])
    )


def _number(version: str) -> tuple[int, ...]:
    """Returns the first two parts of a version; `9.1.0-rc1` is (9, 1)."""
    parts = version.split(".")[:2]
    return tuple(int("".join(filter(str.isdigit, part.partition("-")[0])) or 0) for part in parts)
