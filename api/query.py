"""The query string of a request.

Unknown parameters are refused: an ignored filter would look as if it were applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from starlette.datastructures import QueryParams
from starlette.types import Scope

from api.errors import printable, unknown
from api.normalise import invalid


async def known_query(request: Request) -> None:
    """A dependency of every route under `/v1`.

    Raises `InvalidRequest` naming each parameter that the route does not know.
    """
    if request.scope["query_string"]:
        check_query(request.scope, [field.alias for field in request.scope["route"].dependant.query_params])


def check_query(scope: Scope, known: Sequence[str]) -> None:
    """Raises `InvalidRequest` for query parameters other than `known`."""
    names = dict.fromkeys(QueryParams(scope["query_string"]).keys())
    faults = [
        (printable(name), unknown(printable(name), "query parameter", known))
        for name in names
        if name not in known
    ]
    if faults:
        raise invalid(faults)
