"""Adaptive grids against closed forms, on features far narrower than the grid they start from."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import spence
from scipy.stats import norm

from vae_bit.quadrature import ORDER, adapt, lookup, nodes, peaks, resample, share, tabulate


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@partial(jax.jit, static_argnums=(0, 2))
def integrate(f, edges, passes, *args):
    edges, values = adapt(lambda z: (f(z, *args)[None], f(z, *args)), edges, passes)
    return jnp.sum(values * nodes(edges)[1], axis=-1)


def kink(z, scale, centre):
    """softplus(scale * (z - centre))."""
    x = scale * (z - centre)
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def step(z, centre):
    """A logistic step of width 1e-5 times a Gaussian."""
    return jax.nn.sigmoid((z - centre) / 1e-5) * jnp.exp(-0.5 * z**2)


@jax.jit
def peak_mass(mean, std):
    """int exp(-((z - mean) / std)^2 / 2) dz on +-20, the integrand being known by its logarithm."""

    def f(z):
        log_density = -0.5 * ((z - mean) / std) ** 2
        return peaks(log_density[None]), log_density

    edges, log_density = adapt(f, jnp.linspace(-20.0, 20.0, 33), 8)
    return jnp.sum(jnp.exp(log_density) * nodes(edges)[1])


def test_nodes_integrate_polynomials_of_degree_2_order_less_one():
    edges = jnp.array([-1.0, 0.5, 0.5, 3.0])  # one panel is empty
    z, weights = nodes(edges)
    for degree in range(2 * ORDER):
        exact = (3.0 ** (degree + 1) - (-1.0) ** (degree + 1)) / (degree + 1)
        assert float(jnp.sum(weights * z**degree)) == pytest.approx(exact, rel=1e-13)
    z, weights = nodes(jnp.linspace(-1.0, 1.0, 2))
    assert abs(float(jnp.sum(weights * z ** (2 * ORDER))) - 2.0 / (2 * ORDER + 1)) > 1e-5


def test_independent_grids_lie_on_the_leading_axes():
    edges = jnp.stack([jnp.linspace(-1.0, 1.0, 9), jnp.linspace(0.0, 5.0, 9)])
    both = integrate(kink, edges, 4, 1e4, 0.3)
    np.testing.assert_allclose(both, [integrate(kink, row, 4, 1e4, 0.3) for row in edges], rtol=1e-8)


@pytest.mark.parametrize("scale", [1e1, 1e4, 1e7])
@pytest.mark.parametrize("centre", [0.0, 0.25, 0.3])  # at an edge of the first grid, and within a panel
def test_closes_in_on_a_kink(scale, centre):
    """int_-8^8 softplus(s (z - c)) dz = (Li2(-exp(-s (8 + c))) - Li2(-exp(s (8 - c)))) / s, Li2(-y) = spence(1 + y)."""

    def dilog(x):  # Li2(-exp(x)) = -x^2 / 2 - pi^2 / 6 - Li2(-exp(-x))
        return -(x**2) / 2 - np.pi**2 / 6 - spence(1.0 + np.exp(-x)) if x > 0 else spence(1.0 + np.exp(x))

    exact = (dilog(-scale * (8.0 + centre)) - dilog(scale * (8.0 - centre))) / scale
    edges = jnp.linspace(-8.0, 8.0, 33)
    assert float(integrate(kink, edges, 5, scale, centre)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("centre", [0.0, 0.25, 0.3])
def test_finds_a_step_and_its_width(centre):
    """The step is odd about its middle; it may hide between two panels, where an even grid is off by 2e-5 or more."""
    edges = jnp.linspace(-9.0, 9.0, 73)
    exact = np.sqrt(2.0 * np.pi) * norm.sf(centre + 7e-5)
    assert float(integrate(step, edges, 5, centre + 7e-5)) == pytest.approx(exact, abs=1e-9)
    assert abs(float(integrate(step, edges, 1, centre + 7e-5)) - exact) > 2e-5


@pytest.mark.parametrize("std", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("mean", [0.0, 1.2345, -7.9])
def test_finds_a_peak_from_its_logarithm(std, mean):
    assert float(peak_mass(mean, std)) == pytest.approx(np.sqrt(2.0 * np.pi) * std, rel=1e-6)


def test_peaks_do_not_underflow():
    features = np.asarray(peaks(jnp.array([[-7e3, -6.9e3, -1e300]])))
    np.testing.assert_allclose(features, [[np.exp(-100.0), 1.0, 0.0], [1.0 / 101.0, 1.0, 0.0]], atol=1e-299)


def test_share_keeps_the_ends_and_the_order():
    edges = jnp.array([-3.0, -1.0, -1.0, 2.0, 4.0])
    features = jnp.sin(5.0 * nodes(edges)[0])[None]
    new = np.asarray(jax.jit(share, static_argnums=2)(edges, features, 11))
    assert new.shape == (12,)
    np.testing.assert_allclose(new[[0, -1]], [-3.0, 4.0], rtol=1e-14)
    assert (np.diff(new) >= 0.0).all()


def test_the_sizes_of_features_do_not_matter():
    edges = jnp.linspace(-3.0, 3.0, 13)
    z, _ = nodes(edges)
    features = jnp.stack([jnp.tanh(8.0 * z), jnp.exp(-20.0 * jnp.square(z - 2.0))])
    scaled = features * jnp.array([[2.0**-20], [2.0**20]])
    np.testing.assert_allclose(share(edges, scaled, 12), share(edges, features, 12), rtol=1e-12, atol=1e-12)
    alone = [np.asarray(share(edges, feature[None], 12)) for feature in features]
    assert np.abs(alone[0] - alone[1]).max() > 0.3


def test_resample_keeps_the_density_of_its_points():
    np.testing.assert_allclose(resample(jnp.array([4.0, 0.0, 1.0]), 4), [0.0, 0.5, 1.0, 2.5, 4.0], atol=1e-14)


def test_tables_are_exact_for_polynomials_and_held_beyond_the_ends():
    edges = jnp.array([-2.0, -0.5, 0.1, 3.0])
    powers = np.arange(ORDER)
    values = np.asarray(nodes(edges)[0])[None] ** powers[:, None]
    table = tabulate(edges, jnp.asarray(values))
    read = jax.jit(lookup)
    z = np.array([[-2.0, -0.5, 0.0], [0.1, 2.99, 3.0]])
    np.testing.assert_allclose(read(table, z), z[None] ** powers[:, None, None], rtol=1e-12, atol=1e-13)  # 3^5 eps
    beyond = read(table, np.array([-1e9, 1e9]))
    np.testing.assert_allclose(beyond, np.array([[-2.0, 3.0]]) ** powers[:, None], rtol=1e-12)


def test_float32_stays_float32():
    """Where float64 is allowed, so that a constant could turn it into that."""
    edges, values = jax.eval_shape(lambda e: adapt(lambda z: (z[None], z), e, 2), jnp.zeros(5, jnp.float32))
    read = jax.eval_shape(lambda e, v: lookup(tabulate(e, v[None]), v), edges, values)
    assert {edges.dtype, values.dtype, read.dtype} == {jnp.dtype("float32")}
