"""A family of distributions of a scalar as a user writes one."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_bit.distributions import Drawn


class Logistic(NamedTuple):
    """A distribution of scalars as a user writes it: `log_prob` and `draw`."""

    mean: jax.Array
    scale: jax.Array

    def log_prob(self, z):
        t = jnp.abs(z - self.mean) / self.scale
        return -t - 2.0 * jnp.log1p(jnp.exp(-t)) - jnp.log(self.scale)

    def draw(self, eps):
        logit = jax.scipy.stats.norm.logcdf(eps) - jax.scipy.stats.norm.logcdf(-eps)
        z = self.mean + self.scale * logit
        return Drawn(z, self.log_prob(z), 1.0)


@dataclass(frozen=True)
class LogisticFamily:
    size = 2

    def __call__(self, numbers, positive):
        return Logistic(numbers[0], positive(numbers[1]))
