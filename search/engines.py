"""Which index the settings name. Each engine's libraries are imported only where it is used."""

from __future__ import annotations

from pathlib import Path

from contracts.errors import SettingsError
from contracts.search_settings import EMBEDDED, SearchSettings, index_kind
from search.index import PictureIndex


def index_of(settings: SearchSettings) -> PictureIndex:
    """The index of the settings, not yet open. Raises `SettingsError` where its library is not installed."""
    kind, url = index_kind(settings.search_index), settings.search_index
    try:
        if kind == "embedded":
            from search.embedded import EmbeddedIndex

            return EmbeddedIndex(Path(url.removeprefix(EMBEDDED)), settings.search_exact_below)
        if kind == "redis":
            from search.redis_index import RedisIndex

            return RedisIndex(url, settings.search_timeout_s, settings.search_connections)
        from search.postgres import PostgresIndex

        return PostgresIndex(url, settings.search_timeout_s, settings.search_connections)
    except ModuleNotFoundError as error:
        extra = "search-postgres" if kind == "postgres" else "search"
        raise SettingsError(
            f"DARKROOM_SEARCH_INDEX: this index needs the package {error.name}: pip install 'darkroom[{extra}]'."
        ) from None
