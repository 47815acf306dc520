"""`python -m tests.telemetry.draw`: runs one job on a private platform, and draws its trace as docs/operations.md shows it."""

from __future__ import annotations

import sys

from benchmarks.lib.platform import FAKE
from tests.integration.conftest import Stack
from tests.telemetry.collector import Collector, Seen

WIDTH = 40


def drawing(spans: list[Seen], trace_id: str) -> str:
    """The spans of a trace as a tree: when each began and how long it took, in milliseconds, and as a bar. Then what it links to."""
    ours = sorted((each for each in spans if each.trace_id == trace_id), key=lambda each: each.started_ns)
    by_id = {each.span_id: each for each in ours}
    begin, end = ours[0].started_ns, max(each.ended_ns for each in ours)

    def depth(span: Seen) -> int:
        above = by_id.get(span.parent_id)
        return 0 if above is None else depth(above) + 1

    def line(span: Seen, indent: int) -> str:
        at, took = (span.started_ns - begin) / 1e6, (span.ended_ns - span.started_ns) / 1e6
        scale = WIDTH / (end - begin)
        left = min(WIDTH - 1, int((span.started_ns - begin) * scale))
        bar = " " * left + "█" * max(1, round((span.ended_ns - span.started_ns) * scale))
        name = "  " * indent + span.name
        return f"{name:<34} {span.service.removeprefix('darkroom-'):<7}{at:>7.1f} +{took:<7.1f}{bar}".rstrip()

    def tree(span: Seen) -> list[str]:
        below = [each for each in ours if each.parent_id == span.span_id]
        return [line(span, depth(span)), *(text for each in below for text in tree(each))]

    lines = [text for each in ours if each.parent_id not in by_id for text in tree(each)]
    linked = {span for each in ours for _, span in each.links}
    lines += [f"{line(each, 0)}   (linked, a trace of its own)" for each in spans if each.span_id in linked]
    return "\n".join(lines)


def main() -> None:
    collector = Collector()
    collector.start()
    with Stack.open({**FAKE, "DARKROOM_OTLP_ENDPOINT": collector.url}) as stack:
        stack.ended(stack.submit(prompt="warm"))
        before = {each.trace_id for each in collector.spans}
        stack.ended(stack.submit(prompt="slow=0.02", seed=1))
        spans = collector.wait_for(
            lambda seen: (
                any(each.name == "finish" and each.trace_id not in before for each in seen)
                and sum(each.name == "POST /v1/jobs" for each in seen) == 2
            )
        )
    collector.stop()
    last = max((each for each in spans if each.name == "finish"), key=lambda each: each.started_ns)
    sys.stdout.write(drawing(spans, last.trace_id) + "\n")


if __name__ == "__main__":
    main()
