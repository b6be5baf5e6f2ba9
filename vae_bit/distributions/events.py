"""What all distributions share: sums over events, with what a mask hides left out, draws, and what gives these."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_tuple

from vae_bit.checks import Axes, agree, fit_mask

LOG_2PI = 1.8378770664093453


class Drawn(NamedTuple):
    """Reparameterised draws of scalars, one for each noise: E[f(z)] is the mean over the noise of weight * f(z)."""

    z: Array
    log_prob: Array  # ln q(z)
    weight: Array | float  # 1, or a share for each of the draws that one noise gives, on a last axis that z has more


class Distribution(Protocol):
    """A distribution of a scalar, or one for each entry of its fields' leading axes: a pytree such as Normal.

    One of your own is a NamedTuple of arrays, whose own axes, such as components, come last.
    """

    def log_prob(self, z: Array, /) -> Array:
        """ln p(z), elementwise."""
        ...

    def draw(self, eps: Array, /) -> Drawn:
        """Draws for noise N(0, 1)."""
        ...


def total(term: Callable[..., Array], mask: ArrayLike | None, axis: Axes = -1, **arrays: ArrayLike) -> Array:
    """The sum over `axis` of term(*arrays), times the mask.

    What the mask hides is replaced before the arithmetic, by 1, where every term and its derivatives are finite: the
    derivative of a NaN that is only left out of the sum is 0 * NaN.
    """
    given = agree(axis, **arrays)
    if mask is None:
        return jnp.sum(term(*given), axis)
    event = jnp.broadcast_shapes(*(array.shape for array in given))
    mask = fit_mask(mask, event, axis).astype(jnp.result_type(*given))
    from_last = tuple(
        i - len(event) for i in normalize_axis_tuple(axis, len(event))
    )  # the mask may lead with more axes
    *given, mask = agree(None, **dict(zip(arrays, given, strict=True)), mask=mask)
    return jnp.sum(mask * term(*(jnp.where(mask == 0.0, 1.0, array) for array in given)), from_last)
