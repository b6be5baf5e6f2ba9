"""Each peer of the benchmark trains the post's model: it reaches the loss that our original preset reaches."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from scipy.special import log_expit
from scipy.stats import norm

from experiments.benchmark import peers
from experiments.benchmark.numpy_peer import numpy_gradient
from experiments.benchmark.numpy_peer import views as numpy_nets
from experiments.benchmark.peers import VAE, rate, rows
from experiments.benchmark.workers import PEERS, ours
from vae_bit.presets import ORIGINAL, post_decay

pytestmark = pytest.mark.usefixtures("quick_compile")
N, SEEDS, STEPS = 5, range(3), 150
TOLERANCE = 0.03  # nats; a step's sampled loss has a standard deviation of 0.03, and untrained networks lose 3.5


def exact_loss(nets, i):
    """The loss of seed i, one layer, by a trapezoid rule on +-8 standard deviations."""

    def network(net, h):
        *hidden, (kernel, bias) = [(kernel[i].astype(np.float64), bias[i]) for kernel, bias in net]
        for w, b in hidden:
            h = h @ w + b
            h = np.where(h > 0.0, h, np.expm1(np.minimum(h, 0.0)))
        return h @ kernel + bias

    eps = np.linspace(-8.0, 8.0, 801)
    weight, loss = norm.pdf(eps) * (eps[1] - eps[0]), 0.0
    for bit in (0.0, 1.0):
        mean, raw = network(nets["q"][0], np.full((1, N), bit))[0]
        variance = np.logaddexp(0.0, raw) + 1e-8
        logits = network(nets["p"][0], (mean + np.sqrt(variance) * eps)[:, None])
        loss -= weight @ log_expit(logits if bit else -logits).sum(-1)
        loss += (mean**2 + variance - 1 - np.log(variance)) / 2
    return loss / 2


@pytest.fixture(scope="module")
def wanted():
    """The median sampled loss of our original preset over 16 seeds."""
    return np.median(ours("original", 1, N, range(16)).advance(STEPS))


@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("torch_vmap_compiled", "flax_vmap_tuned")])
def test_a_peer_reaches_the_loss_of_our_original_preset(name, wanted):
    """Neither compilation by torch nor XLA's flags change what is computed, and the first takes half a minute."""
    if name.startswith("torch"):
        pytest.importorskip("torch").set_num_threads(1)
    seeds = SEEDS if PEERS[name].batched else SEEDS[:1]
    trainer = PEERS[name].build(1, N, seeds)
    with jax.numpy_rank_promotion("allow"):
        first = trainer.advance(1)
        sampled = trainer.advance(STEPS - 1)
    nets = trainer.params()
    exact = [exact_loss(nets, i) for i in range(len(seeds))]
    assert np.all(first > 2.0)
    assert abs(np.median(exact) - wanted) < TOLERANCE
    np.testing.assert_allclose(sampled, exact, atol=0.2)


def flax_params(nets):
    """The tree that Flax makes of networks without a seed axis."""
    return {
        f"{side}_{l}": {f"Dense_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(net)}
        for side in nets
        for l, net in enumerate(nets[side])
    }


def one_seed(nets, i):
    return {s: [[(w[i].T, b[i, :, 0]) for w, b in net] for net in nets[s]] for s in nets}


@pytest.mark.parametrize("layers", [1, 2])
def test_numpy_gradients_are_those_of_the_flax_loss(layers):
    rng, seeds, n = np.random.default_rng(0), 2, 3
    size = sum(jax.tree.leaves(jax.tree.map(np.size, numpy_nets(np.zeros((1, 10**5)), layers, n))))
    flat, grad = 0.1 * rng.standard_normal((seeds, size)), np.zeros((seeds, size))
    nets, grads = numpy_nets(flat, layers, n), numpy_nets(grad, layers, n)
    x, eps = rows(n)[490:510].astype(np.float64), rng.standard_normal((layers, seeds, 1, 20))
    loss = numpy_gradient(nets, grads, np.ascontiguousarray(x.T), eps, with_loss=True)
    for i in range(seeds):
        with jax.enable_x64(True):
            flax_loss = partial(VAE(layers, n).apply, x=x, eps=eps[:, i, 0, :, None])
            wanted = jax.value_and_grad(lambda p, f=flax_loss: f({"params": p}))(flax_params(one_seed(nets, i)))
        np.testing.assert_allclose(loss[i], wanted[0], rtol=1e-10)
        compare = partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)
        jax.tree.map(compare, flax_params(one_seed(grads, i)), wanted[1])


@pytest.mark.parametrize("layers", [1, 2])
def test_torch_computes_the_flax_loss(layers):
    torch = pytest.importorskip("torch")
    model, x = peers.torch_vae()(layers, 3, seed=0), rows(3)[490:510]
    eps = np.random.default_rng(1).standard_normal((layers, 20, 1)).astype(np.float32)
    wanted: Any = VAE(layers, 3).apply({"params": flax_params(peers.torch_nets(model))}, x, eps)
    np.testing.assert_allclose(model(torch.from_numpy(x), torch.from_numpy(eps)).item(), wanted, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_flax_loss_is_ours(layers):
    """Our own loss of the same networks under the same draws: an oracle for all peers, in float64 NumPy."""
    n = 3
    nets = one_seed(numpy_nets(np.random.default_rng(2).normal(0.0, 0.1, (1, 10**5)), layers, n), 0)
    eps = np.random.default_rng(3).standard_normal((layers, 2, 10))

    def joined(net):
        *hidden, head = [{"kernel": np.concatenate([w.T, b[:, None]], 1)} for w, b in net]
        return {"params": {"mlp": {f"hidden_{i}": layer for i, layer in enumerate(hidden)}, "head": head}}

    (weights, bias), *rest = nets["q"][0]
    tied = [[(weights.mean(0, keepdims=True), bias), *rest], *nets["q"][1:]]  # reads the sum of x, not each number
    params = {side: [joined(net) for net in own] for side, own in (("q", tied), ("p", nets["p"]))}
    terms = [oracle.terms(ORIGINAL.model, params, n, bit, eps[:, bit], "sampled") for bit in (0, 1)]
    wanted = np.mean([recon.mean() + kl.sum(0).mean() for recon, kl in terms])
    x = np.array([[0.0], [1.0]]).repeat(10, 0).repeat(n, 1)
    with jax.enable_x64(True):
        loss: Any = VAE(layers, n).apply({"params": flax_params(nets)}, x, eps.reshape(layers, 20, 1))
    np.testing.assert_allclose(loss, wanted, rtol=1e-9)


def test_the_learning_rate_is_the_posts():
    ours = 5e-3 * post_decay(5000)(jnp.arange(5000))
    np.testing.assert_allclose([rate(step) for step in range(5000)], ours, rtol=1e-4)
