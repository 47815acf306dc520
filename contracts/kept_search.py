"""What the platform stores for the search, beside the index itself: rows of `contracts/kept.py`."""

from __future__ import annotations

from typing import Final

from contracts.kept_row import Kept, Place

_ALL: Final = "yes"
_BY_JOBS: Final = "the jobs"
_DOCUMENT: Final = "a document"
_FIXED: Final = "a fixed form"
_NOBODYS: Final = "names no tenant"

SEARCH_ROWS: Final = (
    Kept(
        "records of images with an embedding, and of imported ones",
        Place.STATE,
        "pictures",
        ("darkroom:{s*}:picture:*",),
        "`blob_retention_s` after the job's end or the import",
        _ALL,
        "documents; one that cannot be read is left out",
        "yes",
        "the jobs, not `tenant_store_bytes`; imported ones count in it: about 2.2 kB per image with a CLIP of 512 dimensions",
    ),
    Kept(
        "which files were imported, and the records of each imported image",
        Place.STATE,
        "imports",
        ("darkroom:{s*}:imported:*", "darkroom:{s*}:importers:*"),
        "`blob_retention_s` after the last import",
        _ALL,
        _FIXED,
        "yes",
        "the imports, in `tenant_store_bytes`: about 0.5 kB per image",
    ),
    Kept(
        "images that the search index does not have yet, or must forget",
        Place.STATE,
        "pictures",
        ("darkroom:{s*}:unindexed", "darkroom:{s*}:unwanted"),
        "the index has done it; at most `blob_retention_s`",
        _ALL,
        _FIXED,
        "when the index has forgotten them: until then, name and scope of each",
        _BY_JOBS,
    ),
    Kept(
        "how far the rebuild of each search index has come",
        Place.STATE,
        "rebuilds",
        ("darkroom:search-rebuild:*",),
        "kept forever",
        _ALL,
        _DOCUMENT,
        _NOBODYS,
        "one per index and CLIP",
    ),
    Kept(
        "clicks on the hits of searches",
        Place.STATE,
        "clicks",
        ("darkroom:{clicks:*}:*",),
        "30 days after the last click on a query; which clicks were counted: two days",
        _ALL,
        _FIXED,
        "yes",
        "10,000 clicks a day, 10,000 queries and 100 images of a query, for each tenant",
    ),
    Kept(
        "prompts that similar ones are compared with, and their embeddings",
        Place.CACHE,
        "similar",
        ("darkroom:similar:*",),
        "`result_ttl_s` after the last request for a similar answer, or until evicted",
        "only if the cache and the state share one server",
        "documents; one that cannot be read, or of another CLIP, is passed over",
        "yes; in a shared cache, those whose results no other tenant's job has",
        "1,000 prompts for each set of parameters; `maxmemory` and eviction of its Redis",
    ),
    Kept(
        "the second model's vectors, if `rerank_cache` names a file",
        Place.INDEX,
        "index",
        ("rerank*.sqlite3*",),
        "a week after a search has used them",
        "no; computed again from the images",
        "belongs to one CLIP; emptied for another, replaced when damaged",
        _NOBODYS,
        "`rerank_vectors`",
    ),
)
