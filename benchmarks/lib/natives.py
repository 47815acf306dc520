"""Loads native libraries in an order in which they agree. Import it first, where one process may load both.

onnxruntime 1.32.0 and usearch 2.26.6 do not go together in every order. No process of the platform
loads both: diffusers loads onnxruntime with a pipeline, and only the search process has usearch. Tests
and benchmarks have all in one process.
"""

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):  # an extra
    import onnxruntime  # noqa: F401
