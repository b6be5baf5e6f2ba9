"""The implementations that the benchmark compares, each in processes of its own that live from call to call."""

import multiprocessing
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmark import numpy_peer, peers
from experiments.benchmark.peers import Trainer
from vae_bit import programs, runtime, sweep
from vae_bit.presets import PRESETS
from vae_bit.programs import Group

CORES = os.cpu_count() or 1


class Implementation(NamedTuple):
    """How to build a trainer, the environment its process needs, and how many, each on one core, share the seeds."""

    build: Callable[[int, int, Sequence[int]], Trainer]
    environment: Mapping[str, str] = MappingProxyType({})
    processes: int = 1
    batched: bool = True
    accelerates: bool = True  # where there is an accelerator, this runs on it


class Case(NamedTuple):
    """What is trained, by the implementation of that name: seeds first, first + 1, ..."""

    implementation: str
    layers: int
    n: int
    seeds: int
    first: int = 0


class Time(NamedTuple):
    """Seconds of wall time, and of processor time summed over processes and threads."""

    wall: float
    cpu: float


def ours(preset: str, layers: int, n: int, seeds: Sequence[int], keep: bool = True) -> Trainer:
    """Our own programs; unless `keep`, every advance starts anew and holds the state of one chunk alone."""
    runtime.keep_freed_memory()
    group = our_group(preset, layers, n, seeds)
    compiled = programs.compile_programs(group)
    slices = programs.slices(len(seeds), compiled.chunk)
    chunks = [programs.padded(group.runs, where, compiled.chunk) for where in slices]
    states: dict[int, Any] = {}

    def advance_chunk(i, steps):
        state, metrics = compiled.advance(states.pop(i, None) or compiled.init(chunks[i]), chunks[i], np.int32(steps))
        if keep:
            states[i] = state
        return np.asarray(metrics.loss)

    def advance(steps):
        return np.concatenate([advance_chunk(i, steps) for i in range(len(chunks))])[: len(seeds)]

    def read():
        pieces = [states[i].params for i in range(len(chunks))]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(seeds)], *pieces)

    return Trainer(advance, read)


def our_group(preset: str, layers: int, n: int, seeds: Sequence[int]) -> Group:
    """The one group of a single setting."""
    (group,) = sweep.plan(PRESETS[preset], [layers], [n], [1.0], None, [PRESETS[preset].learning_rate], seeds)
    return group


# Freed memory is kept, as buffers allocated once would be; processes share the work.
NUMPY = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
DEVICES = {"JAX_NUM_CPU_DEVICES": str(CORES)}
TUNED = {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}
IMPLEMENTATIONS = {
    "ours default": Implementation(partial(ours, "default"), DEVICES),
    "ours original": Implementation(partial(ours, "original"), DEVICES),
    "torch_loop": Implementation(peers.torch_loop, batched=False, accelerates=False),
    "torch_vmap": Implementation(partial(peers.torch_vmap, compiled=False), accelerates=False),
    "torch_vmap_compiled": Implementation(peers.torch_vmap, accelerates=False),
    "flax_loop": Implementation(peers.flax_loop, batched=False),
    "flax_vmap": Implementation(peers.flax_vmap),
    "flax_vmap_tuned": Implementation(peers.flax_vmap, TUNED, processes=CORES, accelerates=False),
    "numpyro_svi": Implementation(peers.numpyro_svi),
    "numpy_batched": Implementation(numpy_peer.numpy_batched, accelerates=False),
    "numpy_batched_tuned": Implementation(numpy_peer.numpy_batched, NUMPY, processes=CORES, accelerates=False),
}
PEERS = {name: peer for name, peer in IMPLEMENTATIONS.items() if not name.startswith("ours")}


class Team:
    """The processes of one implementation; a call runs in all of them at once, each with its share of the seeds."""

    def __init__(self, environment: Mapping[str, str] | None = None, processes: int = 1):
        cores: list[int | None] = list(range(processes)) if processes > 1 else [None]
        self.pools = [_process(environment or {}, core) for core in cores]

    def call(self, task: Callable[..., Any], case: Case, *args: Any) -> list[Any]:
        """The task's results, one a process."""
        shares = [share for share in np.array_split(case.first + np.arange(case.seeds), len(self.pools)) if share.size]
        cases = [case._replace(first=int(share[0]), seeds=share.size) for share in shares]
        futures = [pool.submit(task, case, *args) for pool, case in zip(self.pools, cases, strict=False)]
        return [future.result() for future in futures]

    def timed(self, task: Callable[..., Time], case: Case, *args: Any) -> Time:
        """The slowest process's wall time and the sum of their processor times."""
        times = self.call(task, case, *args)
        return Time(max(time.wall for time in times), sum(time.cpu for time in times))

    def close(self) -> None:
        """Ends the processes."""
        for pool in self.pools:
            pool.shutdown()


@contextmanager
def team(environment: Mapping[str, str] | None = None, processes: int = 1) -> Iterator[Team]:
    """A Team that ends with the block."""
    members = Team(environment, processes)
    try:
        yield members
    finally:
        members.close()


def _process(environment: Mapping[str, str], core: int | None) -> ProcessPoolExecutor:
    """A fresh process, which has started: what it inherits is read at its start."""
    before = dict(os.environ)
    os.environ.update({"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **environment})
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _pin, (core,))
    pool.submit(os.getpid)
    os.environ.clear()
    os.environ.update(before)
    return pool


def _pin(core: int | None) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {available[core % len(available)]})


_trainers: dict[Case, Trainer] = {}  # of this process


def _clock() -> Time:
    return Time(time.perf_counter(), time.process_time())


def _since(start: Time) -> Time:
    return Time(*(now - then for now, then in zip(_clock(), start, strict=True)))


def timed_command(command: Sequence[str]) -> Time:
    """A command in a process of its own, from its start to its end."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Time(time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def build(case: Case, **choices: Any) -> Time:
    """Makes the case's trainer and takes one step: what compiling costs."""
    start = _clock()
    seeds = range(case.first, case.first + case.seeds)
    _trainers[case] = IMPLEMENTATIONS[case.implementation].build(case.layers, case.n, seeds, **choices)
    _trainers[case].advance(1)
    return _since(start)


def advance(case: Case, steps: int) -> Time:
    """Trains on."""
    start = _clock()
    _trainers[case].advance(steps)
    return _since(start)


def scale(case: Case, seconds: float) -> tuple[Time, Time, float]:
    """Compiling, a step of one seed, and the process's peak memory, bytes; one chunk's state is held at a time.

    At least 100 steps, beside which starting a chunk costs little.
    """
    compiling = build(case, keep=False)
    steps = max(100, enough_steps(lambda steps: advance(case, steps).wall, seconds))
    once = advance(case, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return compiling, Time(*(part / steps / case.seeds for part in once)), peak


def enough_steps(wall: Callable[[int], float], seconds: float) -> int:
    """Steps that take `seconds`, at least a sweep's block; tries ever more until a call's overhead counts little."""
    wall(2)  # what only a first call costs
    steps, taken = 2, wall(2)
    while taken < seconds / 8:
        steps, taken = 4 * steps, wall(4 * steps)
    return max(25, int(steps * seconds / taken))


def backend(case: Case) -> dict[str, Any]:
    """Where JAX computes."""
    return {"backend": jax.default_backend(), "devices": [device.device_kind for device in jax.devices()]}
