"""Fine-tuning for the promising variants only: which of a family's are left out, and why."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmprune import folder
from mmprune.progress import Progress
from mmprune.promising import beats, ranked
from mmprune.records import Start, Task
from mmprune.start import STARTS_READ, folder_of, make_start
from mmprune.start_loss import judge_start
from mmprune.workers import Processes, Work, run_tasks

if TYPE_CHECKING:
    from mmprune.family import Baseline


def left_out(tasks: Sequence[Task], starts: Sequence[Start], keep: int, macs: int) -> dict[str, str]:
    """{variant id: why it is not fine-tuned} for all but the `keep` most promising tasks, judged by their starts alone.

    macs  multiply-accumulates of all prunable layers of the dense model, for one image
    """
    points = [(start.macs / macs, math.inf if start.loss is None else start.loss) for start in starts]
    order = ranked(points)
    reasons = {}
    for place, i in enumerate(order[keep:], keep + 1):
        better = next((j for j in order if beats(points, j, i)), None)
        loss = "not finite" if math.isinf(points[i][1]) else f"{points[i][1]:.3g}"
        reason = (f"{_name(tasks[better])} is no worse in both" if better is not None else
                  f"in place {place} of {len(order)}, and {keep} are kept")
        reasons[tasks[i].id] = (f"calibration loss {loss} with {100 * points[i][0]:.0f} % of the "
                                f"multiply-accumulates: {reason}")
    return reasons


def judged(root: Path, setup: Any, how: Processes, device: str, progress: Progress,
           tasks: Sequence[Task]) -> list[Start]:
    """The records of these tasks' starts; starts are made where there is no record yet.

    setup  the baseline; for more than one process a picklable function that makes it
    """
    todo = [task for task in tasks if folder.read_start(root, task.id) is None]
    shares = dict.fromkeys((task.id for task in todo), 0.0)

    def report(task: Task, share: float, _word: Any) -> None:
        shares[task.id] = share
        progress("start", task.strategy, sum(shares.values()), len(todo))

    run_tasks(Work(setup, partial(_judge, device), root, STARTS_READ, folder_of), todo, how, report)
    starts = [folder.read_start(root, task.id) for task in tasks]
    return [start for start in starts if start is not None]


def _judge(device: str, baseline: "Baseline", root: Path, task: Task, tick: Callable[[int, int], None]) -> None:
    manifest = folder.read_manifest(root)
    start = make_start(root, manifest, baseline, task, device, tick)
    judge_start(root, manifest, baseline, task, start, device)


def _name(task: Task) -> str:
    return f"{task.strategy} ({task.score})"
