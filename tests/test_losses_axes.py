"""Which axis holds the draws, and which numbers a weight belongs to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit.distributions import Normal, normal_sample, standard_normal
from vae_bit.losses import average, dreg, iwae, loss, renyi, sampled_kl
from vae_bit.noise import trapezoid

pytestmark = pytest.mark.usefixtures("quick_compile")
BOUNDS = [average, iwae, *(lambda w, *args, a=a, **kw: renyi(w, a, *args, **kw) for a in (0.3, 1.0))]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("weight", [None, jnp.array([0.5, 0.3, 0.2])])
def test_draws_may_lie_on_any_axis(bound, weight):
    draws_last = jax.random.normal(jax.random.key(0), (3, 3, 3))  # a cube: no axis can be told by its size
    expected = jax.vmap(jax.vmap(lambda w: bound(w, weight)))(draws_last)
    for axis in range(-3, 3):
        moved = jnp.moveaxis(draws_last, -1, axis)
        np.testing.assert_allclose(bound(moved, weight, axis=axis), expected, rtol=1e-5, atol=1e-6)
    full = None if weight is None else jnp.broadcast_to(weight[:, None, None], (3, 3, 3))
    first = jnp.moveaxis(draws_last, -1, 0)
    np.testing.assert_allclose(bound(first, full, axis=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_grid_of_nodes_is_reduced_over_all_its_axes(bound):
    eps, weight = trapezoid(jax.random.key(1), layers=2, samples=8)  # 8 nodes in each layer
    values = jnp.sin(eps[0]) - 0.3 * eps[1]
    batch = jnp.stack([values, 2.0 * values])
    expected = [bound(one.ravel(), weight.ravel()) for one in batch]
    np.testing.assert_allclose(bound(batch, weight, axis=(-2, -1)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bound(batch, weight.T, axis=(-1, -2)), expected, rtol=1e-5, atol=1e-6)


def test_the_doubly_reparameterised_bound_takes_the_axis_of_its_log_weights():
    z = jax.random.normal(jax.random.key(2), (4, 3, 2))  # 4 draws, 3 bounds

    def log_weight(z):
        return -sampled_kl(z, Normal(jnp.array([0.5, 0.1]), jnp.array([0.7, 1.1])), standard_normal((2,)))

    value, slope = jax.value_and_grad(lambda z: dreg(log_weight, z, axis=0).sum())(z)
    each, slopes = jax.vmap(jax.value_and_grad(lambda z: dreg(log_weight, z)), 1)(z)
    np.testing.assert_allclose(value, each.sum(), rtol=1e-5)
    np.testing.assert_allclose(slope, jnp.moveaxis(slopes, 0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(
    "shape, weight, axis, words",
    [
        ((3, 4), (4,), 0, r"\(3, 4\) and weight \(4, 1\).*equal along axis 0"),
        ((4,), (2, 4), -1, r"\(4,\) and weight \(2, 4\): give weight one axis"),
        ((2, 3, 4), (3, 4), -1, r"\(2, 3, 4\) and weight \(3, 4\): give weight one axis"),
        ((3, 4), (4,), (0, 1), r"weight \(4,\): give weight one axis for each of \(0, 1\)"),
        ((3, 0), None, 1, r"\(3, 0\): there is no draw on axis 1"),
        ((3, 4), None, 2, "axis 2 is out of bounds"),
    ],
)
def test_weights_and_axes_that_do_not_fit_are_refused(bound, shape, weight, axis, words):
    with pytest.raises(ValueError, match=words):
        bound(jnp.zeros(shape), None if weight is None else jnp.ones(weight), axis=axis)


def test_layers_are_a_sequence_whatever_the_rank():
    recon, kl = jnp.arange(6.0).reshape(2, 3), [jnp.full((2, 3), 1.0), jnp.full((2, 3), 10.0), jnp.full((2, 3), 100.0)]
    np.testing.assert_array_equal(loss(recon, kl), recon + 111.0)
    np.testing.assert_array_equal(jax.jit(loss)(recon, tuple(kl), 2.0), recon + 222.0)
    np.testing.assert_array_equal(jax.vmap(loss)(recon, kl), recon + 111.0)


def test_draws_of_unlike_rank_must_be_events_of_one_size():
    q = Normal(jnp.zeros((4, 1)), jnp.ones((4, 1)))
    with pytest.raises(ValueError, match=r"mean has shape \(4, 1\) and eps \(4,\)"):
        normal_sample(q, jnp.zeros(4))
    assert normal_sample(q, jnp.zeros((1, 3))).shape == (4, 3)
    assert normal_sample(Normal(jnp.zeros((4, 2)), jnp.ones(2)), 1.0).shape == (4, 2)
