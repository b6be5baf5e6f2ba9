"""What a chain's padding holds reaches no figure; marginals of kernels that are narrow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_oracle import chain, compute, oracle_evidence

from vae_bit import Normal, ScalarVAE, exact

pytestmark = pytest.mark.usefixtures("quick_compile")
SLOPES = np.array([3.0, -1.0])


def padded(filling):
    """Two points of two bits, one layer, beside two dimensions that hold what they are given."""
    x = jnp.asarray(np.concatenate([[[0.0, 1.0], [1.0, 1.0]], np.full((2, 2), filling)]))
    slopes = jnp.asarray(np.concatenate([SLOPES, [filling, filling]]))
    q = Normal(jnp.array([-1.0, 1.0]), jnp.array([0.4, 0.5]))
    return ScalarVAE(x, jnp.array([1.0, 1.0, 0.0, 0.0]), q, (), (), lambda z: slopes[:, None] * z[None] + 0.5)


@pytest.mark.parametrize("filling", [np.nan, np.inf, 3e38, -1e300])
def test_what_is_masked_reaches_no_figure(filling):
    with jax.enable_x64(True):
        plain, hidden = (exact.evaluate(padded(value)) for value in (0.0, filling))
        z = jnp.linspace(-2.0, 2.0, 5)
        densities = [exact.densities(padded(value), [z]) for value in (0.0, filling)]
    assert np.isfinite(plain.loss) and 0.0 < plain.valid_mass < 1.0
    jax.tree.map(np.testing.assert_array_equal, hidden, plain)
    before, after = (each._replace(at_zero=np.asarray(each.at_zero)[:2]) for each in densities)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_kernels_narrower_than_the_steps_between_their_means():
    """p(z_1 | z_2) = N(6 tanh(z_2), 0.01^2): the grid of z_1 follows two bells and not the nodes of z_2, a comb."""
    case = (5, 4.0, 0.0, 6.0, 0.1, 6.0, 1.0, 0.01, 0.8, 1.0, 0.5)
    log_p = compute(lambda: exact.log_evidence(chain(*case, width=5)))
    np.testing.assert_allclose(log_p, oracle_evidence(case), atol=1e-6)
