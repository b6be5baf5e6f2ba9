"""What is refused before any arithmetic: arrays of one call that differ in dtype or do not fit together.

Shapes and dtypes are known while a function is traced, so a check costs nothing in a compiled program.
"""

from itertools import combinations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def agree(axis: int | None = -1, **arrays: ArrayLike) -> list[Array]:
    """The named arrays at one rank: axes of size 1 are put in front of the shorter ones.

    All must share one floating dtype (Python numbers take any), else TypeError. They must be of one size along `axis`,
    the event's, and broadcast along the others, else ValueError; with axis = None all axes broadcast. The message names
    the first two arrays at odds, with their dtypes or shapes.
    """
    named = {name: jnp.asarray(array) for name, array in arrays.items()}
    _one_dtype({name: array for name, array in named.items() if not array.weak_type})
    rank = max(array.ndim for array in named.values())
    if axis is not None and rank == 0:
        raise ValueError(f"{' and '.join(named)} have shape (): an event lies on an axis, so a scalar has shape (1,)")
    full = {name: jnp.expand_dims(array, range(rank - array.ndim)) for name, array in named.items()}
    for a, b in combinations(named, 2):
        if not _fit(full[a].shape, full[b].shape, axis):
            want = "broadcast" if axis is None else f"be equal along axis {axis} and broadcast along the others"
            raise ValueError(f"{a} has shape {named[a].shape} and {b} {named[b].shape}: they must {want}")
    return list(full.values())


def _one_dtype(named: dict[str, Array]) -> None:
    for name, array in named.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            others = " and ".join(f"{other} is {x.dtype}" for other, x in named.items() if other != name)
            raise TypeError(f"{name} is {array.dtype}, a floating dtype is needed" + (f"; {others}" if others else ""))
    for (a, x), (b, y) in combinations(named.items(), 2):
        if x.dtype != y.dtype:
            raise TypeError(f"{a} is {x.dtype} and {b} is {y.dtype}: one dtype is needed, see .astype")


def _fit(x: tuple[int, ...], y: tuple[int, ...], axis: int | None) -> bool:
    event = None if axis is None else axis % len(x)
    return all(m == n or (1 in (m, n) and i != event) for i, (m, n) in enumerate(zip(x, y, strict=True)))
