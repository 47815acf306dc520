"""Whose picture is decoded next: tenants take turns, within a number of processes and one budget of memory. Pure.

A picture that does not fit waits, and the others behind it: else large ones would never have their turn. What waits is bounded
too; where there is no more room, the tenant that fills most of it loses what it sent last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Ticket(Generic[T]):
    """One picture: `memory_bytes` while it is decoded, `held_bytes` while it waits; `item` is the caller's."""

    tenant: str
    memory_bytes: int
    held_bytes: int
    item: T


@dataclass(slots=True)
class Turns(Generic[T]):
    """The queue of all tenants. `processes` and `memory_bytes` bound what is decoded at once, `room_bytes` what waits."""

    processes: int
    memory_bytes: int
    room_bytes: int
    _waiting: dict[str, deque[Ticket[T]]] = field(default_factory=dict)
    """By tenant, in the order of their turns."""
    _running: set[Ticket[T]] = field(default_factory=set)

    def add(self, ticket: Ticket[T]) -> list[Ticket[T]]:
        """Let `ticket` wait. Answers those that must give up for want of room; it may be among them."""
        self._waiting.setdefault(ticket.tenant, deque()).append(ticket)
        dropped = []
        while sum(map(self._held_by, self._waiting)) > self.room_bytes:
            largest = max(self._waiting, key=self._held_by)
            dropped.append(self._waiting[largest][-1])
            self.leave(dropped[-1])
        return dropped

    def begin(self) -> Ticket[T] | None:
        """The picture whose turn it is, from now on under way; None: nobody waits, or it does not fit now."""
        if not self._waiting or len(self._running) >= self.processes:
            return None
        tenant, queue = next(iter(self._waiting.items()))
        ticket = queue[0]
        if sum(each.memory_bytes for each in self._running) + ticket.memory_bytes > self.memory_bytes:
            return None
        self.leave(ticket)
        if queue:
            self._waiting[tenant] = self._waiting.pop(tenant)  # behind all others
        self._running.add(ticket)
        return ticket

    def leave(self, ticket: Ticket[T]) -> None:
        """`ticket` neither waits nor is under way any more."""
        self._running.discard(ticket)
        queue = self._waiting.get(ticket.tenant, deque())
        if ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self._waiting[ticket.tenant]

    def _held_by(self, tenant: str) -> int:
        return sum(ticket.held_bytes for ticket in self._waiting[tenant])
