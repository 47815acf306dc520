from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from api import garbage

class Node:
    alive = 0
    def __init__(self):
        Node.alive += 1
        self.me = self
    def __del__(self):
        Node.alive -= 1

kept = [Node() for _ in range(100)]
garbage.settle()
looks = []
gc.callbacks.append(lambda phase, info: looks.append(info["generation"]) if phase == "start" else None)
held = [[number] for number in range(garbage.YOUNG // 2)]
print(gc.get_freeze_count() > 1000, gc.isenabled(), looks)
while Node.alive <= 100 and not looks:
    Node()
for _ in range(2 * garbage.YOUNG):
    Node()
print(len(looks) > 0, Node.alive < 100 + 2 * garbage.YOUNG)
"""


def test_what_was_there_is_looked_at_no_more_and_cycles_still_go() -> None:
    # In a process of its own: what is frozen here would stay so for all other tests.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["True True []", "True True"], done.stderr
