"""Whose image is decoded next. Tenants take turns, within a number of processes and a memory
budget. Pure.

An image that does not fit waits, and all others wait behind it. Otherwise large images would never
be decoded. The waiting images are bounded too. If there is no more room, the tenant that uses most
of it loses its newest image.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Ticket(Generic[T]):
    """One image.

    It takes `memory_bytes` while it is decoded, and `held_bytes` while it waits. `item` belongs to
    the caller.
    """

    tenant: str
    memory_bytes: int
    held_bytes: int
    item: T


@dataclass(slots=True)
class Turns(Generic[T]):
    """The queue of all tenants.

    `processes` and `memory_bytes` bound the images that are decoded at once, `room_bytes` those
    that wait.
    """

    processes: int
    memory_bytes: int
    room_bytes: int
    _waiting: dict[str, deque[Ticket[T]]] = field(default_factory=dict)
    """The waiting images by tenant, in the order in which tenants are next."""
    _running: set[Ticket[T]] = field(default_factory=set)

    def add(self, ticket: Ticket[T]) -> list[Ticket[T]]:
        """Let `ticket` wait.

        Returns the tickets that must give up for lack of room; `ticket` may be among them.
        """
        self._waiting.setdefault(ticket.tenant, deque()).append(ticket)
        dropped = []
        while sum(map(self._held_by, self._waiting)) > self.room_bytes:
            largest = max(self._waiting, key=self._held_by)
            dropped.append(self._waiting[largest][-1])
            self.leave(dropped[-1])
        return dropped

    def begin(self) -> Ticket[T] | None:
        """Start the next image, and return it. None: no image waits, or the next one does not fit now."""
        if not self._waiting or len(self._running) >= self.processes:
            return None
        tenant, queue = next(iter(self._waiting.items()))
        ticket = queue[0]
        if sum(other.memory_bytes for other in self._running) + ticket.memory_bytes > self.memory_bytes:
            return None
        self.leave(ticket)
        if queue:
            self._waiting[tenant] = self._waiting.pop(tenant)  # behind all others
        self._running.add(ticket)
        return ticket

    def leave(self, ticket: Ticket[T]) -> None:
        """Remove `ticket`: it neither waits nor is decoded any more."""
        self._running.discard(ticket)
        queue = self._waiting.get(ticket.tenant, deque())
        if ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self._waiting[ticket.tenant]

    def _held_by(self, tenant: str) -> int:
        return sum(ticket.held_bytes for ticket in self._waiting[tenant])
