"""The tables and queries of the index on PostgreSQL. Pure.

All texts below are constants or numbers of our own. What users give travels as parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from contracts.pictures import PictureRecord
from search import vectors, words
from search.index import Place
from search.where import Where

SCHEMA: Final = "darkroom_search"
FORMAT: Final = 1
"""The version of the tables. An index of another version is built again."""
LEAST_PGVECTOR: Final = (0, 8)
"""0.7 has half-precision vectors. 0.8 goes on searching until enough pictures pass a filter."""
PICTURES: Final = f"{SCHEMA}.pictures"
LOCK: Final = "SELECT pg_advisory_xact_lock(7230115820264913)"
"""One process at a time makes the tables."""
EXTENSION: Final = "CREATE EXTENSION IF NOT EXISTS vector"
PGVECTOR: Final = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
EXISTS: Final = f"SELECT to_regclass('{SCHEMA}.meta') IS NOT NULL"
DROP: Final = f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"
META: Final = f"SELECT clip, dimensions, format FROM {SCHEMA}.meta"
CLAIM: Final = f"INSERT INTO {SCHEMA}.meta (clip, dimensions, format) VALUES (%s, %s, %s)"
SESSION: Final = (
    "SET hnsw.ef_search = 200",
    "SET hnsw.iterative_scan = strict_order",
    "SET hnsw.max_scan_tuples = 100000",
)
PUT: Final = f"""
INSERT INTO {PICTURES} AS old (scope, name, vector, words, terms, record, model, lora, width, height, seed, source, created_at,
  expires_at)
VALUES (%s, %s, %s::halfvec, array_to_tsvector(%s::text[]), %s::text[], %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (scope, name) DO UPDATE SET vector = EXCLUDED.vector, words = EXCLUDED.words, terms = EXCLUDED.terms,
  record = EXCLUDED.record, model = EXCLUDED.model, lora = EXCLUDED.lora, width = EXCLUDED.width, height = EXCLUDED.height,
  seed = EXCLUDED.seed, source = EXCLUDED.source, created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
WHERE old.record IS DISTINCT FROM EXCLUDED.record
"""
DELETE: Final = f"DELETE FROM {PICTURES} WHERE scope = %s AND name = ANY(%s)"
ERASE_SOME: Final = f"""
DELETE FROM {PICTURES} WHERE scope = %s AND name IN (SELECT name FROM {PICTURES} WHERE scope = %s LIMIT 1000)
"""
EXPIRE: Final = f"""
DELETE FROM {PICTURES} WHERE (scope, name) IN
  (SELECT scope, name FROM {PICTURES} WHERE expires_at <= %s ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)
"""
GET: Final = f"""
SELECT record FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS asked (scope, name, at)
LEFT JOIN {PICTURES} USING (scope, name) ORDER BY at
"""
COUNT_ALL: Final = f"""
SELECT CASE WHEN reltuples < 1e6 THEN (SELECT count(*) FROM {PICTURES}) ELSE reltuples::bigint END
FROM pg_class WHERE oid = '{PICTURES}'::regclass
"""
COUNT: Final = f"SELECT count(*) FROM {PICTURES} WHERE scope = %s"
SIZE: Final = f"SELECT pg_total_relation_size('{PICTURES}')"


def tables(dimensions: int) -> list[str]:
    """What makes the tables."""
    return [
        f"CREATE SCHEMA {SCHEMA}",
        f"""CREATE TABLE {SCHEMA}.meta (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), clip text NOT NULL,
          dimensions integer NOT NULL, format integer NOT NULL)""",
        f"""CREATE TABLE {PICTURES} (scope text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL,
          vector halfvec({int(dimensions)}) NOT NULL, words tsvector NOT NULL, terms text[] NOT NULL, record text NOT NULL,
          model text COLLATE "C" NOT NULL, lora text COLLATE "C" NOT NULL, width integer NOT NULL, height integer NOT NULL,
          seed bigint, source text NOT NULL, created_at double precision NOT NULL, expires_at double precision NOT NULL,
          PRIMARY KEY (scope, name))""",
        f"""CREATE INDEX nearest ON {PICTURES} USING hnsw (vector halfvec_cosine_ops)
          WITH (m = 16, ef_construction = 128)""",
        f"CREATE INDEX words ON {PICTURES} USING gin (words)",
        f"CREATE INDEX newest ON {PICTURES} (scope, created_at)",
        f"CREATE INDEX seeds ON {PICTURES} (scope, seed)",
        f"CREATE INDEX expiry ON {PICTURES} (expires_at)",
    ]


def row(record: PictureRecord) -> tuple[Any, ...]:
    """The parameters of `PUT`."""
    found = words.terms(record.prompt)
    return (
        record.scope,
        record.name,
        vector_text(vectors.halves(vectors.raw_of(record)).astype("f4")),
        [lexeme(record.scope, term) for term in found],
        found,
        record.model_dump_json(),
        record.model,
        record.lora,
        record.width,
        record.height,
        record.seed,
        record.source,
        record.created_at,
        record.expires_at,
    )


def vector_text(vector: vectors.Floats) -> str:
    """A vector as pgvector reads it."""
    return f"[{','.join(map(repr, vector.tolist()))}]"


def lexeme(scope: str, term: str) -> str:
    """A term of one scope, as `words` holds it: a query reads the entries of its own scopes alone."""
    return f"{hashlib.sha256(scope.encode()).hexdigest()[:16]}:{term}"


def having(scope: str, together: Sequence[str]) -> str:
    """A tsquery for the pictures of the scope with all of these terms. Terms are letters, marks and digits alone."""
    return " & ".join(f"'{lexeme(scope, term)}'" for term in together)


def conditions(where: Where) -> tuple[str, list[Any]]:
    """The filter as SQL, beginning with AND where it is not empty, and its parameters."""
    parts, values = list[str](), list[Any]()
    for text, value in (
        ("expires_at > %s", where.alive_at),
        ("width >= %s", where.min_width),
        ("width <= %s", where.max_width),
        ("height >= %s", where.min_height),
        ("height <= %s", where.max_height),
        ("created_at >= %s", where.created_from),
        ("created_at <= %s", where.created_to),
        ("seed = %s", where.seed),
        ("source = %s", where.source),
        ("model = %s", where.model),
        ("lora = %s", where.lora),
    ):
        if value is None:
            continue
        if isinstance(value, str) and not vectors.is_storable(value):
            return " AND false", []
        parts.append(f" AND {text}")
        values.append(value)
    return "".join(parts), values


def passing(where: Where) -> tuple[str, list[Any]]:
    """Counts the pictures of the scopes that pass the filter, up to a limit. Parameters: scopes, the filter's, the limit."""
    text, values = conditions(where)
    return (
        f"SELECT count(*) FROM (SELECT 1 FROM {PICTURES} WHERE scope = ANY(%s){text} LIMIT %s) AS counted",
        values,
    )


def nearest(where: Where, *, exact: bool) -> tuple[str, list[Any]]:
    """Pictures by similarity, by the graph or by comparing all. Parameters: vector, scopes, the filter's, vector, limit."""
    text, values = conditions(where)
    chosen = f"SELECT scope, name, vector FROM {PICTURES} WHERE scope = ANY(%s){text}"
    if exact:
        chosen = f"SELECT * FROM ({chosen} OFFSET 0) AS chosen"  # OFFSET keeps the planner from the graph
    return (
        f"SELECT scope, name, 1 - (vector <=> %s::halfvec) FROM ({chosen}) AS those ORDER BY vector <=> %s::halfvec LIMIT %s",
        values,
    )


FREQUENCIES: Final = f"""
SELECT (SELECT count(*) FROM
  (SELECT 1 FROM {PICTURES} WHERE scope = ANY(%s) AND words @@ asked.query LIMIT %s) AS counted)
FROM unnest(%s::tsquery[]) WITH ORDINALITY AS asked (query, at) ORDER BY at
"""
"""How many pictures of the scopes have each term, up to a limit. Parameters: scopes, limit, tsqueries."""


def newest(where: Where) -> tuple[str, list[Any]]:
    """The newest pictures of a scope that have words. Parameters: scope, tsquery, the filter's, limit."""
    text, values = conditions(where)
    return (
        f"SELECT scope, name, terms FROM {PICTURES} WHERE scope = %s AND words @@ %s::tsquery{text} "
        "ORDER BY created_at DESC, name LIMIT %s",
        values,
    )


def latest(where: Where, before: Place | None) -> tuple[str, list[Any]]:
    """Pictures in the order of `PictureIndex.newest`. Parameters: scopes, the filter's, limit."""
    text, values = conditions(where)
    if before is not None:
        text += " AND (created_at < %s OR (created_at = %s AND name > %s))"
        values = [*values, before.created_at, before.created_at, before.name]
    return (
        f"SELECT scope, name, created_at FROM {PICTURES} WHERE scope = ANY(%s){text} "
        "ORDER BY created_at DESC, name, scope LIMIT %s",
        values,
    )
