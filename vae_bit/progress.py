"""Progress bars of a sweep, one a group, with the speed and the sampled gap to each run's own limit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from vae_bit import limits, sweep
from vae_bit.programs import Group, Labels
from vae_bit.sweep import Progress
from vae_bit.training import Metrics


@contextmanager
def progress_bars(groups: list[Group]) -> Iterator[list[Callable[[np.ndarray, Progress], None]]]:
    """Bars, one a group, and the function that moves each; silent where standard error is no terminal."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), SpeedColumn(), TimeRemainingColumn(), "{task.fields[gap]}")
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        varied = [name for name in Labels._fields if len({getattr(group.labels, name) for group in groups}) > 1]
        yield [_report(bars, group, [getattr(group.labels, name) for name in varied]) for group in groups]


class SpeedColumn(ProgressColumn):
    """Steps of one run each second, over all runs of the group."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} steps/s")


def _report(bars: Bars, group: Group, labels: Sequence[str]) -> Callable[[np.ndarray, Progress], None]:
    n = f"{group.runs.n.min()}..{group.width}" if group.runs.n.min() < group.width else group.width
    name = f"{' '.join(labels)} layers {group.layers}, n {n}, {group.runs.n.size} runs"
    task = bars.add_task(name.strip(), total=group.runs.n.size * group.recipe.steps, gap="")
    ends, done, limit = sweep.block_ends(group.recipe.steps), np.zeros(group.runs.n.size, int), own_limits(group)

    def report(which: np.ndarray, progress: Progress) -> None:
        done[which] = ends[len(progress.curves) - 1]
        gap = median_gap(progress.curves[-1], np.asarray(group.runs.beta)[which], limit[which])
        bars.update(task, completed=done.sum(), gap=gap)

    return report


def own_limits(group: Group) -> np.ndarray:
    """The limit of each run [R]; runs that differ in seed and learning rate alone share one."""
    settings, index = np.unique(np.stack([group.runs.n, group.runs.beta]), axis=1, return_inverse=True)
    return limits.limit(group.layers, *settings)[index]


def median_gap(metrics: Metrics, beta: np.ndarray, limit: np.ndarray) -> str:
    """The median distance of the sampled -ELBO = recon + beta * kl from each run's own limit, in words."""
    gap = metrics.recon + beta * metrics.kl - limit
    finite = gap[np.isfinite(gap)]
    return f"median gap {np.median(finite):.4f}" if finite.size else "diverged"
