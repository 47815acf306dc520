"""Job ids: sortable by time, with a digit that locates the job's keys.

An id is `job_` + 10 base32 digits of the Unix time in milliseconds + 16 random base32 digits + 1 hex
digit, the first digit of the cache key. This is the ULID layout (https://github.com/ulid/spec) with one
digit added. With the digit, a reader finds a record in a Redis Cluster from the id alone, for any number
of shards (`store.key_names.Layout`). With the time, it can tell an expired id from an unknown one.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Final

from pydantic import AfterValidator, Field

SHARDS: Final = "0123456789abcdef"
"""The possible last digits of an id. With 16 shards they are also the names of the shards."""


def _divides_16(count: int) -> int:
    if 16 % count:
        raise ValueError("must be 1, 2, 4, 8 or 16")
    return count


ShardCount = Annotated[int, Field(ge=1, le=16), AfterValidator(_divides_16)]
"""How many shards the job store has: 1, 2, 4, 8 or 16, so every shard has equally many digits."""

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_PATTERN = re.compile(rf"job_[{_DIGITS}]{{26}}[0-9a-f]\Z")


def new_job_id(now_s: float, shard: str) -> str:
    """A new id for a job created at `now_s` (Unix seconds); `shard` is the first hex digit of its
    cache key."""
    milliseconds = int(now_s * 1000)
    entropy = secrets.randbits(80)
    stamp = "".join([_PAIRS[(milliseconds >> shift) & 1023] for shift in range(40, -1, -10)])
    tail = "".join([_PAIRS[(entropy >> shift) & 1023] for shift in range(70, -1, -10)])
    return f"job_{stamp}{tail}{shard}"


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of a job id."""
    return _PATTERN.match(text) is not None


def shard_of(job_id: str) -> str:
    """The shard digit of a well-formed job id."""
    return job_id[-1]


def created_at(job_id: str) -> float:
    """The creation time in a well-formed job id, in Unix seconds."""
    milliseconds = 0
    for digit in job_id[4:14]:
        milliseconds = milliseconds * 32 + _DIGITS.index(digit)
    return milliseconds / 1000
