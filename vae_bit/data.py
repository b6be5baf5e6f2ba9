"""The whole data set: 0^n and 1^n, each with probability 1/2, so its entropy is ln 2 nats."""

import jax.numpy as jnp
import numpy as np
from jax import Array

POINTS = 2
BITS = np.array([0.0, 1.0], np.float32)


def mask(n: Array, width: int) -> Array:
    """[width]: one for each of the n real dimensions, zero for the padding beyond them."""
    return (jnp.arange(width) < n).astype(jnp.float32)


def points(n: Array, width: int) -> Array:
    """[width, 2]: the columns 0^n and 1^n, padded with zeros."""
    return mask(n, width)[:, None] * BITS[None]
