"""What tests of whole families share: a build that is slow enough to be killed, and what a folder holds."""

import hashlib
from pathlib import Path

# Formatted with `tests`, this folder, and `root`, the family's
KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import toys
from mmprune import family, variant
real = variant.finetune
def slow(model, teacher, job, tick):
    def slow_tick(step, steps):
        time.sleep(0.05)
        tick(step, steps)
    return real(model, teacher, job, slow_tick)
variant.finetune = slow
family.build_family(toys.make_baseline, toys.REQUEST, Path({root!r}), family.Resources(threads=1))
"""


def contents(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"}
