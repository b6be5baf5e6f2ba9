"""What is refused before any arithmetic: arrays of one call that differ in dtype or do not fit together.

Shapes and dtypes are known while a function is traced, so a check costs nothing in a compiled program. What passes is
at least float32: bfloat16 and float16 are for storage, and a sum of many terms needs more digits than they have.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_tuple

Axes = int | tuple[int, ...]


def agree(axis: Axes | None = -1, **arrays: ArrayLike) -> list[Array]:
    """The named arrays at one rank: axes of size 1 are put in front of the shorter ones.

    All must share one floating dtype (Python numbers take any), else TypeError. They must be of one size along `axis`,
    the event's, and broadcast along the others, else ValueError; with axis = None all axes broadcast. The message names
    the first two arrays at odds, with their dtypes or shapes.
    """
    named = _one_dtype(arrays)
    rank = max(array.ndim for array in named.values())
    if axis is not None and rank == 0:
        raise ValueError(f"{' and '.join(named)} have shape (): an event lies on an axis, so a scalar has shape (1,)")
    events = () if axis is None else normalize_axis_tuple(axis, rank)
    full = {name: jnp.expand_dims(array, range(rank - array.ndim)) for name, array in named.items()}
    for a, b in combinations(named, 2):
        if not _fit(full[a].shape, full[b].shape, events):
            want = "broadcast" if axis is None else f"be equal along axis {axis} and broadcast along the others"
            raise ValueError(f"{a} has shape {named[a].shape} and {b} {named[b].shape}: they must {want}")
    return list(full.values())


def agree_scalars(least: int, own: Mapping[str, ArrayLike], **point: ArrayLike) -> tuple[Array, list[Array]]:
    """A point [...] and the arrays [..., K] that belong to each of its numbers, at ranks that broadcast.

    The arrays must be of one size K >= `least`, and their leading axes broadcast with the point's, else ValueError; of
    one dtype all, else TypeError.
    """
    arrays = agree(-1, **own)
    for name, array in zip(own, arrays, strict=True):
        if array.shape[-1] < least:
            raise ValueError(f"{name} has shape {jnp.shape(own[name])}: at least {least} on the last axis are needed")
    leading = {f"{name}[..., 0]": array[..., 0] for name, array in zip(own, arrays, strict=True)}
    number, *_ = agree(None, **point, **leading)
    return number, [jnp.expand_dims(array, range(number.ndim + 1 - array.ndim)) for array in arrays]


def same_shape(advice: str, numbers: tuple[str, ...] = (), **arrays: ArrayLike) -> list[Array]:
    """The named arrays, which must share one floating dtype and the first one's shape; those in `numbers` may be ().

    Nothing broadcasts here: [B] beside [B, 1] would pair every entry with every other. TypeError and ValueError as in
    `agree`; the latter ends with `advice`.
    """
    named = _one_dtype(arrays)
    first, *others = named
    for other in others:
        if named[other].shape != named[first].shape and not (other in numbers and named[other].ndim == 0):
            raise ValueError(f"{first} has shape {named[first].shape} and {other} {named[other].shape}: {advice}")
    return list(named.values())


def fit_mask(mask: ArrayLike, event: tuple[int, ...], axis: Axes) -> Array:
    """A mask of the entries of an array of shape `event`, or of its whole events, at the rank that broadcasts to it.

    One for the entries broadcasts, along the events' `axis` too: [d], [B, d], [B, 1]. One for whole events has the
    shape that is left when `axis` is summed away: [B]. ValueError where neither fits, or both do with unlike meaning.
    """
    mask = jnp.asarray(mask)
    axes = normalize_axis_tuple(axis, len(event))
    whole = tuple(size for i, size in enumerate(event) if i not in axes)
    rank = max(mask.ndim, len(event))
    lifted = jnp.expand_dims(mask, range(rank - mask.ndim))
    entries = _fit(lifted.shape, (1,) * (rank - len(event)) + event, ())
    if entries and (mask.shape != whole or mask.size == 1):
        return lifted
    if mask.shape != whole:
        raise ValueError(f"mask has shape {mask.shape} and the event {event}: they must broadcast, or mask be {whole}")
    if entries:
        raise ValueError(
            f"mask has shape {mask.shape} and may count entries or whole events of {event}: give it {len(event)} axes"
        )
    return jnp.expand_dims(mask, axes)


def integer(name: str, value: Any, least: int) -> int:
    """The value as an int, NumPy's too; ValueError that names it unless it is one, and at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: got {value!r}, expected an integer from {least}")
    return int(value)


def instance(kind: type, **values: object) -> None:
    """TypeError that names the first value of another type: fields of one name can mean different things."""
    for name, value in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} is a {type(value).__name__}: a {kind.__name__} is needed")


def functions(**values: object) -> None:
    """ValueError that names the first value that cannot be called: a name of one, perhaps."""
    for name, value in values.items():
        if not callable(value):
            raise ValueError(f"{name}: got {value!r}, expected a function")


def _one_dtype(arrays: dict[str, ArrayLike]) -> dict[str, Array]:
    """The arrays at float32 or more, Python numbers still of any precision; TypeError unless of one floating dtype."""
    named = {name: jnp.asarray(array) for name, array in arrays.items()}
    typed = {name: array for name, array in named.items() if not array.weak_type}
    for name, array in typed.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            others = " and ".join(f"{other} is {x.dtype}" for other, x in typed.items() if other != name)
            raise TypeError(f"{name} is {array.dtype}, a floating dtype is needed" + (f"; {others}" if others else ""))
    for (a, x), (b, y) in combinations(typed.items(), 2):
        if x.dtype != y.dtype:
            raise TypeError(f"{a} is {x.dtype} and {b} is {y.dtype}: one dtype is needed, see .astype")
    return {name: x.astype(jnp.float32) if x.dtype.itemsize < 4 else x for name, x in named.items()}


def _fit(x: tuple[int, ...], y: tuple[int, ...], equal: tuple[int, ...]) -> bool:
    return all(m == n or (1 in (m, n) and i not in equal) for i, (m, n) in enumerate(zip(x, y, strict=True)))
