import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae_bit
from vae_bit import noise

pytestmark = pytest.mark.usefixtures("quick_compile")
RULES = [noise.iid, noise.lattice, noise.trapezoid]
FUNCTIONS = {  # of two numbers, with their means over N(0, I)
    "one": (lambda a, b: 1.0 + 0.0 * (a + b), 1.0),
    "square": (lambda a, b: a**2 + 0.0 * b, 1.0),
    "mixed": (lambda a, b: (a + b) ** 2 + a, 2.0),
    "cosine": (lambda a, b: jnp.cos(a) * jnp.cos(0.5 * b), float(np.exp(-0.625))),
}


@pytest.fixture(scope="module", params=RULES)
def estimates(request):
    """The estimates of all means from each of 2,000 keys."""

    def one(key):
        eps, weight = request.param(key, 2, 16)
        return {name: jnp.sum(weight * f(*eps)) for name, (f, _) in FUNCTIONS.items()}

    keys = jax.random.split(jax.random.key(0), 2_000)
    return request.param, {name: np.float64(e) for name, e in jax.jit(jax.vmap(one))(keys).items()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_rule_is_unbiased(estimates, name):
    _, found = estimates
    error = np.mean(found[name]) - FUNCTIONS[name][1]
    truncation = 1.2e-3  # of the upper layers' box: E[b^2] over |b| < 4 is 1 - 1.1e-3
    assert abs(error) < 4.0 * np.std(found[name]) / np.sqrt(2_000) + truncation


def test_lattice_and_trapezoid_vary_less_than_independent_draws(estimates):
    rule, found = estimates
    independent = np.exp(-0.625) ** -2 * (1 + np.exp(-2.0)) * (1 + np.exp(-0.5)) / 4 - 1
    scatter = np.var(found["cosine"]) * 16 / np.exp(-1.25) / independent
    assert scatter < {noise.iid: 1.1, noise.lattice: 0.2, noise.trapezoid: 0.02}[rule]
    assert rule is not noise.iid or scatter > 0.9


@pytest.mark.parametrize("nodes, error", [(12, 2e-2), (24, 1e-5)])
def test_the_trapezoid_converges_exponentially_on_one_layer(nodes, error):
    eps, weight = jax.vmap(lambda key: noise.trapezoid(key, 1, nodes))(jax.random.split(jax.random.key(0), 50))
    for power, moment in (0, 1.0), (1, 0.0), (2, 1.0), (4, 3.0):
        np.testing.assert_allclose(jnp.sum(weight * eps[0] ** power, -1), np.full(50, moment), atol=10 * error)
    np.testing.assert_allclose(jnp.sum(weight * jnp.cos(eps[0]), -1), np.full(50, np.exp(-0.5)), atol=error)


def test_the_noise_of_a_chain_broadcasts_to_its_weights():
    rules = {
        noise.iid: (8,),
        noise.lattice: (8,),
        noise.trapezoid: (8, 8, 8),
        functools.partial(noise.trapezoid, upper=5): (8, 5, 5),
    }
    for rule, shape in rules.items():
        eps, weight = rule(jax.random.key(0), 3, 8)
        assert weight.shape == shape == jnp.broadcast_shapes(*(e.shape for e in eps))
        assert len(eps) == 3


def test_keys_and_layers_are_drawn_apart():
    for rule in RULES:
        first, second, again = (rule(jax.random.key(k), 2, 8).eps for k in (0, 1, 0))
        assert (first[0] != second[0]).any() and (first[0] == again[0]).all()
        assert (jnp.sort(first[0].ravel())[:4] != jnp.sort(first[1].ravel())[:4]).any()


def test_a_lattice_puts_one_point_in_each_cell_of_every_axis_and_beats_other_generators():
    nodes = noise.rank1_lattice(2, 55)
    cells = np.sort(np.round(np.float64(nodes) * 55).astype(int), axis=1)
    np.testing.assert_array_equal(cells, np.tile(np.arange(55), (2, 1)))

    def worst_case(g):  # P_2 as the sum over the dual lattice, another form of the criterion
        h = np.arange(-400, 401)
        dual = (h[:, None] + g * h[None]) % 55 == 0
        size = np.maximum(1, np.abs(h))[:, None] * np.maximum(1, np.abs(h))[None]
        return np.sum(dual / np.square(size, dtype=float)) - 1.0

    chosen = int(np.round(float(nodes[1, 1]) * 55))
    assert worst_case(chosen) <= min(worst_case(g) for g in range(1, 28)) + 1e-4


def test_shifted_lattice_is_the_lattice_moved_around_the_torus():
    points = np.asarray(noise.shifted_lattice(jax.random.key(3), 2, 16))
    moved = np.mod(points - points[:, :1], 1.0)
    distance = np.abs(moved - noise.rank1_lattice(2, 16))
    assert (np.minimum(distance, 1.0 - distance) < 1e-6).all()
    assert (points >= 0.0).all() and (points < 1.0).all()


def test_the_trapezoid_s_shifted_nodes_sweep_their_boxes_evenly():
    draw = jax.vmap(lambda key: noise.trapezoid(key, 2, 24).eps)
    lowest, above = (np.float64(eps).reshape(4_000, -1) for eps in draw(jax.random.split(jax.random.key(0), 4_000)))
    for nodes, half_width in (lowest, 6.0), (above, 5.5):
        edges = np.linspace(-half_width, half_width, nodes.shape[1] + 1)
        np.testing.assert_allclose(nodes.min(0), edges[:-1], atol=1e-3)
        np.testing.assert_allclose(nodes.max(0), edges[1:], atol=1e-3)
        np.testing.assert_allclose(nodes.mean(0), (edges[:-1] + edges[1:]) / 2.0, atol=0.02)


SQUARE = functools.partial(noise.trapezoid, upper=20)


@pytest.mark.parametrize("rule, nodes", [(noise.iid, 20), (noise.lattice, 20), (SQUARE, 400)])
def test_draws_for_one_latent_have_events_last(rule: noise.Rule, nodes: int):
    eps, weight = noise.draw_latent(jax.random.key(0), rule, 2, 20)
    assert eps.shape == (nodes, 2) and weight.shape == (nodes,)
    np.testing.assert_allclose(weight.sum(), 1.0, rtol=1e-4)
    if rule is SQUARE:
        np.testing.assert_allclose(eps.T @ (weight[:, None] * eps), np.eye(2), atol=1e-3)


def test_draws_are_of_the_dtype_asked_for():
    with jax.enable_x64(True):
        for rule in RULES:
            for dtype in jnp.float32, jnp.float64:
                eps, weight = noise.draw_latent(jax.random.key(0), rule, 2, 8, dtype)
                assert eps.dtype == weight.dtype == dtype
    eps, weight = noise.draw_latent(jax.random.key(0), noise.iid, 2, 8)
    assert eps.dtype == weight.dtype == jnp.float32


@pytest.mark.parametrize("rule", [noise.iid, noise.lattice])
def test_draws_of_one_group_are_independent_and_standard_normal(rule: noise.Rule):
    def one(key):
        eps, weight = noise.grouped(key, layers=2, samples=48, k=3, rule=rule)
        return jnp.concatenate(eps, -1), weight

    eps, weight = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 1_000))
    assert eps.shape == (1_000, 16, 6) and weight.shape == (1_000, 16, 3)
    np.testing.assert_allclose(weight, 1.0 / 48.0)
    draws = np.float64(eps).reshape(-1, 6)
    np.testing.assert_allclose(draws.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(np.cov(draws.T), np.eye(6), atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T**2), 2.0 * np.eye(6), atol=0.4)


def test_groups_need_independent_draws():
    with pytest.raises(ValueError, match="noise: got a grid of 2 axes, expected single nodes, as of iid or lattice"):
        noise.grouped(jax.random.key(0), 1, 16, 2, noise.trapezoid)


def test_groups_share_the_samples_evenly():
    with pytest.raises(ValueError, match="k: got 3, expected a divisor of samples, 16"):
        noise.grouped(jax.random.key(0), 1, 16, 3, noise.iid)


def test_a_rule_that_is_a_name_is_refused():
    with pytest.raises(ValueError, match="rule: got 'sobol', expected a function"):
        noise.draw_latent(jax.random.key(0), "sobol", 1, 4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="rule: got 'iid', expected a function"):
        noise.grouped(jax.random.key(0), 1, 4, 2, "iid")  # pyright: ignore[reportArgumentType]


def test_examples_in_the_docstrings():
    names = {name: getattr(vae_bit, name) for name in vae_bit.__all__}
    result = doctest.testmod(noise, extraglobs=names)
    assert result.failed == 0 and result.attempted >= 5
