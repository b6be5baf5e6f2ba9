"""Measures training: microseconds per seed and step, against the floor, peers and the truth, at scale, and compiling.

python -m experiments.benchmark
"""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.console import Console

from experiments.benchmark import floor, plots, tables, time_to_truth, workers
from experiments.benchmark.workers import DEVICES, IMPLEMENTATIONS, PEERS, Case, Team, Time
from experiments.cli import BadInput, say
from experiments.figures import style
from vae_bit.presets import PRESETS
from vae_bit.store import files

SCHEMA = 2
WIDTH = 130  # of the tables where there is no terminal
OURS = ("ours default", "ours original")
ARGUMENTS = "--n=1,5,1000"
Row = dict[str, Any]


class Size(NamedTuple):
    """How much is measured; a repeat of a measurement takes `seconds`, or 25 steps."""

    settings: Sequence[tuple[int, int]]  # layers, n
    seeds: Sequence[int]
    peer_settings: Sequence[tuple[int, int]]
    peers: Sequence[str]
    repeats: int
    seconds: float
    truth_n: Sequence[int]
    truth_peers: Sequence[str]
    truth_seconds: float  # allowed for each peer, and six times that for us, before the rest is extrapolated
    command: bool
    scale_seeds: Sequence[int]
    scale_n: Sequence[int]


FULL = Size(
    settings=((1, 5), (1, 1000), (2, 5), (2, 1000)),
    seeds=(8, 32, 256),
    peer_settings=((1, 5), (1, 1000), (2, 5), (2, 1000)),
    peers=tuple(PEERS),
    repeats=5,
    seconds=0.3,
    truth_n=(5, 1000),
    truth_peers=tuple(name for name in PEERS if not name.startswith("torch_vmap")),
    truth_seconds=10.0,
    command=True,
    scale_seeds=(1, 32, 256, 1024, 4096),
    scale_n=(1, 10, 100, 1000, 10_000),
)
QUICK = Size(
    settings=((1, 5), (1, 1000), (2, 5)),
    seeds=(32,),
    peer_settings=((1, 5),),
    peers=tuple(name for name in PEERS if name != "torch_vmap_compiled"),
    repeats=3,
    seconds=0.1,
    truth_n=(),
    truth_peers=(),
    truth_seconds=0.0,
    command=False,
    scale_seeds=(),
    scale_n=(),
)
MANY_SEEDS = (1, 256, 4096, 16_384, 65_536)  # on an accelerator


def main() -> None:
    """Measures section by section, prints each table when it is done, and writes benchmark.json and benchmark.png."""
    quick = flags.FLAGS.quick
    out, console = results_folder(flags.FLAGS.out), Console(width=None if sys.stdout.isatty() else WIDTH)
    say("Time per seed and training step, wall and processor, in microseconds; medians of interleaved repeats.")
    start, where = time.perf_counter(), machine()
    size = fitting(QUICK if quick else FULL, where["backend"])
    record = {"schema": SCHEMA, "quick": quick, "machine": where}
    for name, rows, title, columns in sections(size, record):
        record[name] = rows
        files.write(out / "benchmark.json", lambda file: file.write(json.dumps(record, indent=2).encode()))
        with console.capture() as capture:
            console.print(tables.table(title, rows, columns))
        say(capture.get(), end="")
    if quick:
        left_out = "time to truth, the README's command, scaling, torch.compile, and peers but for one layer and n = 5"
        say(f"--quick leaves out {left_out}.")
    style.save(plots.bars(record), out / "benchmark.png")
    say(f"{time.perf_counter() - start:.0f} s: {out}")


def fitting(size: Size, backend: str) -> Size:
    """On an accelerator: the peers that use it, and more seeds."""
    if backend == "cpu":
        return size
    peers, truth_peers = (
        [name for name in names if PEERS[name].accelerates] for names in (size.peers, size.truth_peers)
    )
    return size._replace(peers=peers, truth_peers=truth_peers, scale_seeds=size.scale_seeds and MANY_SEEDS)


def results_folder(given: str | None) -> Path:
    """Makes the folder; BadInput where that fails or it holds a benchmark."""
    out = Path(given or f"runs/benchmark_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}")
    if (out / "benchmark.json").exists():
        raise BadInput(f"--out={out}: holds a benchmark already; expected a new or empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out={out}: {error.strerror}; expected a folder that can be written") from error
    return out


def machine() -> dict[str, Any]:
    """Processor, load, devices and versions."""
    with workers.team(DEVICES) as team:
        (devices,) = team.call(workers.backend, Case("ours default", 1, 1, 1))
    versions = {name: _version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "numpyro")}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor": _processor(), "cores": workers.CORES, "load": load, **devices, "versions": versions}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def sections(size: Size, record: dict[str, Any]) -> Iterator[tuple[str, list[Row], str, dict[str, str]]]:
    """Every section's name, measurements, title and columns, one after another."""
    rates, rows = measure_own(size)
    record["rates"] = rates._asdict()
    yield "ours", [with_floor(row, rates) for row in rows], "Our training", tables.OWN
    yield "peers", measure_peers(size), "The post's recipe, by others", tables.PEER
    if size.truth_n:
        truths = [measure_truth(name, n, size) for n in size.truth_n for name in (*OURS, *size.truth_peers)]
        yield "truth", truths, "Time to truth: 16 seeds of one layer, from process start", tables.TRUTH
    if size.command:
        yield "command", measure_command(), f"python -m experiments.sweep {ARGUMENTS}", tables.COMMAND
    if size.scale_n:
        yield "scaling", measure_scaling(size), "Scaling: one layer, default preset", tables.SCALE


def measure_own(size: Size) -> tuple[floor.Rates, list[Row]]:
    """Our training, and between its repeats what the machine can do: medians of both."""
    cases = [Case(name, *setting, seeds) for setting in size.settings for name in OURS for seeds in size.seeds]
    readings: list[floor.Rates] = []
    with workers.team(DEVICES) as team:
        rows = measure_cases(cases, size, lambda: readings.append(team.pools[0].submit(floor.measure).result()))
    return floor.Rates(*(float(np.median(rate)) for rate in zip(*readings, strict=True))), rows


def measure_cases(cases: Sequence[Case], size: Size, between: Callable[[], None] = lambda: None) -> list[Row]:
    """Builds all cases, then times them in turn, again and again; implementations of one kind share their processes."""
    with ExitStack() as stack:
        teams: dict[str, Team] = {}
        built: dict[Case, Time] = {}
        for case in cases:
            key = "ours" if case.implementation in OURS else case.implementation
            implementation = IMPLEMENTATIONS[case.implementation]
            if key not in teams:
                teams[key] = stack.enter_context(workers.team(implementation.environment, implementation.processes))
            try:
                built[case] = teams[key].timed(workers.build, case)
            except Exception as error:  # another package's: missing, or unable to compile here
                if case.implementation in OURS:
                    raise
                print(f"skipped {case.implementation}: {' '.join(str(error).split())[:150]}", file=sys.stderr)
        runners = {case: teams["ours" if case.implementation in OURS else case.implementation] for case in built}
        times = interleave(runners, size, between)
    return [row(case, built[case], times[case]) for case in built]


def interleave(runners: dict[Case, Team], size: Size, between: Callable[[], None]) -> dict[Case, list[Time]]:
    """Repeats A B C A B C ..: seconds per seed and step."""

    def enough(case: Case, team: Team) -> int:
        return workers.enough_steps(lambda steps: team.timed(workers.advance, case, steps).wall, size.seconds)

    steps = {case: enough(case, team) for case, team in runners.items()}
    times: dict[Case, list[Time]] = {case: [] for case in runners}
    for _ in range(size.repeats):
        between()
        for case, team in runners.items():
            once = team.timed(workers.advance, case, steps[case])
            times[case].append(Time(*(part / steps[case] / case.seeds for part in once)))
    return times


def row(case: Case, compiling: Time, times: Sequence[Time]) -> Row:
    """A measurement with its units."""
    wall, cpu = (np.array(part) * 1e6 for part in zip(*times, strict=True))
    return {
        **case._asdict(),
        "us": float(np.median(wall)),
        "cpu_us": float(np.median(cpu)),
        "us_repeats": wall.tolist(),
        "compile_s": compiling.wall,
        "compile_cpu_s": compiling.cpu,
    }


def with_floor(row: Row, rates: floor.Rates) -> Row:
    """Adds the floor, its parts and our time over it."""
    preset: Any = PRESETS[row["implementation"].removeprefix("ours ")]
    operations = floor.count(preset.model, preset.recipe, row["layers"], row["n"])
    least = floor.seconds(operations, rates) * 1e6
    return row | {"operations": operations._asdict(), "floor_us": least, "over_floor": row["us"] / least}


def measure_peers(size: Size) -> list[Row]:
    """Peers beside our original preset, with ratios; one seed for loops, 8 or 32 for others."""
    rows = []
    for layers, n in size.peer_settings:
        seeds = 32 if (layers, n) == (1, 5) else 8
        names = ("ours original", *size.peers)
        cases = [Case(name, layers, n, seeds if IMPLEMENTATIONS[name].batched else 1) for name in names]
        part = measure_cases(cases, size)
        rows += [new | {"over_ours": new["us"] / part[0]["us"]} for new in part]
    return rows


def measure_truth(implementation: str, n: int, size: Size) -> Row:
    """Seconds to truth of 16 seeds."""
    try:
        allowed = size.truth_seconds * (6 if implementation in OURS else 1)
        result = time_to_truth.run(implementation, n, 16, allowed)._asdict()
    except Exception as error:  # as above
        if implementation in OURS:
            raise
        print(f"skipped {implementation}: {' '.join(str(error).split())[:150]}", file=sys.stderr)
        result = {}
    return {"implementation": implementation, "n": n, **result}


def measure_command() -> list[Row]:
    """The README's command, and again with the programs that it compiled: the difference of cpu_s is their cost."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sweep = [sys.executable, "-m", "experiments.sweep", ARGUMENTS, f"--compilation_cache={folder}/all"]
        for programs in ("compiled", "kept"):
            wall, cpu = workers.timed_command([*sweep, f"--out={folder}/{programs}"])
            rows.append({"programs": programs, "wall_s": wall, "cpu_s": cpu})
    return rows


def measure_scaling(size: Size) -> list[Row]:
    """Fresh processes for every count of seeds on one and on all devices, and for every n."""
    counts = [(5, seeds, devices) for devices in sorted({1, workers.CORES}) for seeds in size.scale_seeds]
    return [_scaled(*args, size.seconds) for args in [*counts, *((n, 32, workers.CORES) for n in size.scale_n)]]


def _scaled(n: int, seeds: int, devices: int, seconds: float) -> Row:
    case = Case("ours default", 1, n, seeds)
    with workers.team({"JAX_NUM_CPU_DEVICES": str(devices)}) as team:
        ((compiling, once, peak),) = team.call(workers.scale, case, seconds)
    return row(case, compiling, [once]) | {"devices": devices, "peak_mb": peak / 1e6}
