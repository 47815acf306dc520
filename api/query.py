"""The query string of a request: parameters that a route does not know are refused. A filter that nobody reads would look obeyed."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from starlette.datastructures import QueryParams
from starlette.types import Scope

from api.errors import printable, unknown
from api.normalise import invalid


async def known_query(request: Request) -> None:
    """A dependency of every route under `/v1`. Raises `InvalidRequest` naming each parameter that the route does not read."""
    if request.scope["query_string"]:
        check_query(request.scope, [each.alias for each in request.scope["route"].dependant.query_params])


def check_query(scope: Scope, known: Sequence[str]) -> None:
    """Raises `InvalidRequest` for parameters other than `known`."""
    given = dict.fromkeys(QueryParams(scope["query_string"]).keys())
    faults = [
        (printable(name), unknown(printable(name), "query parameter", known))
        for name in given
        if name not in known
    ]
    if faults:
        raise invalid(faults)
