"""The scripts in `docker/`, as modules. Their folder is no package, and a package of the same name is installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "docker"


def script(name: str) -> Any:
    """The module `docker/NAME.py`."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    module = importlib.import_module(name)
    assert module.__file__ == str(FOLDER / f"{name}.py")
    return module
