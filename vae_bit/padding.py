"""What makes runs of different n one program: arrays padded to a common width; and logits in blocks of columns."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_bit import data, settings

CPU_BLOCK_LOGITS = 1 << 19  # of one run in flight: 2^18 to 2^20 are within 3 %, 2^17 takes a fifth longer
FEWEST_COLUMNS = 16  # in a block: each reads the decoder's parameters once


@settings.fixed()
def shapes(init: Callable[[Array, Array], Any], n: int) -> Any:
    """Shapes and dtypes of a model's parameters, those for padding included."""
    return jax.eval_shape(lambda: init(jax.random.key(0), jnp.int32(n)))


def unpad(params: Any, like: Any) -> Any:
    """The parameters without what belongs to padded dimensions, in shapes `like`; leading axes, of runs, are kept."""
    return jax.tree.map(lambda leaf, own: leaf[(..., *map(slice, own.shape))], params, like)


def pad(params: Any, like: Any) -> Any:
    """The parameters in shapes `like`, zeros for the dimensions added; the inverse of `unpad`."""

    def grow(leaf: np.ndarray, wide: Any) -> np.ndarray:
        old = leaf.shape[leaf.ndim - len(wide.shape) :]
        added = [(0, b - a) for a, b in zip(old, wide.shape, strict=True)]
        return np.pad(leaf, [(0, 0)] * (leaf.ndim - len(added)) + added)

    return jax.tree.map(grow, params, like)


def by_columns(cost: Callable[[Array, Array], Array], width: int, z: Array) -> Array:
    """cost(z_1, 1 - 2 x_i) [K] -> [K] of the two points, each at its own z_1 [2, *nodes], for logits of `width` rows.

    Written so, no array of the logits' shape stays the same from step to step: it would be read from memory in each.
    Nor does one outlive its block of columns: the gradient computes a block again.
    """
    sign = jnp.repeat(jnp.asarray(1.0 - 2.0 * data.BITS, z.dtype), z.size // data.POINTS)
    blocks = _blocks(width, z.size)
    if blocks == 1:
        return cost(z.ravel(), sign).reshape(z.shape)
    columns = [jnp.pad(a, (0, -a.size % blocks)).reshape(blocks, -1) for a in (z.ravel(), sign)]
    block = jax.checkpoint(lambda columns: cost(*columns))
    return jax.lax.map(block, columns).ravel()[: z.size].reshape(z.shape)


def _blocks(width: int, columns: int) -> int:
    """As few blocks of columns as CPU_BLOCK_LOGITS allows."""
    if jax.default_backend() != "cpu":
        return 1
    return min(math.ceil(width * columns / CPU_BLOCK_LOGITS), math.ceil(columns / FEWEST_COLUMNS))
