"""Families of q(z_1 | x), p(z_L) and p(x | z_1): what the command line calls posterior, prior and decoder.

A family of distributions of a scalar says how many numbers a member takes, and which distribution these make.

The default preset begins where all numbers are 0, at N(0, 1) or near it. A family of your own is a frozen dataclass
like these; it gives whatever has the methods `log_prob` and `draw` of `vae_bit.distributions.Normal`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_bit import checks, data
from vae_bit.distributions import Distribution, Drawn, Flow, Mixture, Normal

WEIGHT_SPEED = 0.125  # of what a mixture's logits move by
SHAPE_SPEED = 0.5  # and of the logarithms of a spline's climbs and slopes: at 1 its middle may jump at n = 1000
Decoder = Callable[[Array, Array, Array], Array]  # logits [width, K], weights [width] and x_{i-1} [K] -> logits
Positive = Callable[[Array], Array]  # from a number to a standard deviation or a slope


class Family(Protocol):
    """Distributions of a scalar, K of them from numbers [size, K]."""

    @property
    def size(self) -> int:
        """How many numbers a member takes."""
        ...

    def __call__(self, numbers: Array, positive: Positive) -> Distribution:
        """The members with these numbers."""
        ...


@dataclass(frozen=True)
class GaussianFamily:
    """N(mean, std^2)."""

    size = 2

    def __call__(self, numbers: Array, positive: Positive) -> Normal:
        """From a mean and what `positive` makes a standard deviation of."""
        return Normal(numbers[0], positive(numbers[1]))


GAUSSIAN = GaussianFamily()


@dataclass(frozen=True)
class MixtureFamily:
    """Mixtures of Gaussians, which begin around 0, of variance 1, with unlike widths: equal ones would stay equal.

    Weights move slowly. When the code opens, a component that is behind would otherwise be given up, its weight tending
    to 0, and so would one that began on the wrong side: hence none begins on any.
    """

    components: int

    def __post_init__(self) -> None:
        checks.integer("components", self.components, 1)

    @property
    def size(self) -> int:
        """A logit, a mean and a standard deviation for each component."""
        return 3 * self.components

    def __call__(self, numbers: Array, positive: Positive) -> Mixture:
        """Each field [K, components]."""
        logits, mean, scale = jnp.split(numbers.T, 3, axis=1)
        width = np.geomspace(2.0, 1.0, self.components)
        width = width / np.sqrt(np.mean(np.square(width)))
        return Mixture(WEIGHT_SPEED * logits, mean, width[None] * positive(scale))


@dataclass(frozen=True)
class FlowFamily:
    """Monotone splines of N(0, 1): knots at even noise from -4 to 4, whose heights and slopes are free."""

    bins: int = 8

    def __post_init__(self) -> None:
        checks.integer("bins", self.bins, 1)

    @property
    def size(self) -> int:
        """The middle's height, the climb of each bin and the slope at each knot."""
        return 2 * self.bins + 2

    def __call__(self, numbers: Array, positive: Positive) -> Flow:
        """Each field [K, bins + 1]."""
        middle, climb, slope = jnp.split(numbers.T, [1, self.bins + 1], axis=1)
        climb, slope = SHAPE_SPEED * climb, SHAPE_SPEED * slope
        eps = np.linspace(-4.0, 4.0, self.bins + 1)
        y = jnp.pad(jnp.cumsum(positive(climb) * np.diff(eps)[None], axis=1), ((0, 0), (1, 0)))
        x = jnp.broadcast_to(jnp.asarray(eps, y.dtype)[None], y.shape)
        half = self.bins // 2
        return Flow(x, middle + y - y[:, half, None] + eps[half], positive(slope))


class Prior(Protocol):
    """p(z_L), from parameters of its own [size] and, if it asks for it, from q(z_1 | x) at the two points."""

    @property
    def size(self) -> int:
        """How many parameters it has."""
        ...

    def check(self, layers: int) -> None:
        """ValueError where it is none of a model with so many layers."""
        ...

    def __call__(self, own: Array | None, posterior: Callable[[], Distribution], positive: Positive) -> Distribution:
        """The prior with these parameters."""
        ...


@dataclass(frozen=True)
class StandardPrior:
    """N(0, 1)."""

    size = 0

    def check(self, layers: int) -> None:
        """It is one of any model."""

    def __call__(self, own: Array | None, posterior: Callable[[], Distribution], positive: Positive) -> Normal:
        """N(0, 1), whatever the parameters."""
        return Normal(0.0, 1.0)


STANDARD = StandardPrior()


@dataclass(frozen=True)
class LearnedPrior:
    """A member of a family, whose numbers are trained."""

    family: Family

    @property
    def size(self) -> int:
        """As many as the family's."""
        return self.family.size

    def check(self, layers: int) -> None:
        """It is one of any model."""

    def __call__(self, own: Array, posterior: Callable[[], Distribution], positive: Positive) -> Distribution:
        """The member with these numbers."""
        return jax.tree.map(lambda field: field[0], self.family(own[:, None], positive))


@dataclass(frozen=True)
class VampPrior:
    """q(z), the mean of q(z | x) over the data, which for two points is the VampPrior (Tomczak and Welling 2018)."""

    size = 0

    def check(self, layers: int) -> None:
        """It is one of a model with one layer."""
        if layers > 1:
            raise ValueError(f"prior: got vamp with {layers} layers, expected layers=1, where q(z) is known")

    def __call__(self, own: Array | None, posterior: Callable[[], Distribution], positive: Positive) -> "Aggregate":
        """The aggregate of the posteriors."""
        return Aggregate(posterior())


class Aggregate(NamedTuple):
    """The mean of the distributions of D data points, one a scalar's: p has leading axes [D]."""

    p: Distribution

    def log_prob(self, z: Array) -> Array:
        """ln mean_k p_k(z), elementwise."""
        each = self.p.log_prob(z[..., None])
        return jax.nn.logsumexp(each, axis=-1) - np.log(each.shape[-1])

    def draw(self, eps: Array) -> Drawn:
        """A draw of each data point's, and of each component of it, on one last axis."""
        z, _, weight = self.p.draw(eps[..., None])
        share = jnp.broadcast_to(weight / z.shape[eps.ndim], z.shape)
        z, share = (each.reshape(*eps.shape, -1) for each in (z, share))
        return Drawn(z, jax.vmap(self.log_prob, -1, -1)(z), share)


def independent(logits: Array, weight: Array, bit: Array) -> Array:
    """The dimensions are drawn independently, given z: the logits as they are."""
    return logits


def autoregressive(logits: Array, weight: Array, bit: Array) -> Array:
    """logit_i(z) + 8 weight_i (2 x_{i-1} - 1), logits [width, K] and bits [K], x_{i-1} being what i looks at.

    It is all that the two points ask for: the weights may grow until the bit before decides. They begin at 0 and, as q
    does (`read_signs`), move eight times as fast as they would without the factor.
    """
    return logits + 8.0 * weight[:, None] * (2.0 * bit - 1.0)[None]


def components(p: Any) -> float:
    """Of how many Gaussians a distribution is a mixture, inf for a flow, NaN where that is not known."""
    match p:
        case Normal():
            return 1
        case Mixture():
            return p.logits.shape[-1]
        case Flow():
            return math.inf
        case Aggregate():
            return data.POINTS * components(p.p)
    return math.nan
