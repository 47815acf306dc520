"""How often a host is asked. Pure: the time is passed in."""

from __future__ import annotations


class Pace:
    """Gives each host its turns, `interval_s` seconds apart."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next: dict[str, float] = {}
        self._slower: dict[str, float] = {}

    def turn(self, host: str, now: float) -> float:
        """The seconds to wait until the next turn of the host, which is taken."""
        at = max(now, self._next.get(host, now))
        self._next[host] = at + max(self._interval_s, self._slower.get(host, 0.0))
        return at - now

    def slow_down(self, host: str, interval_s: float) -> None:
        """The host wants at least so many seconds between two requests."""
        self._slower[host] = interval_s

    def hold(self, host: str, now: float, seconds: float) -> None:
        """The host wants no request for so many seconds."""
        self._next[host] = max(self._next.get(host, now), now + seconds)
