"""The post's recipe as others would write it, to be timed against `vae_bit`: a short function each.

Every peer takes (layers, n, seeds) and gives a Trainer. A step has 1,000 rows, 500 of each data point, all sent through
the encoder, one draw a row, every KL sampled; data networks 3 x 10 ELU, those between latents 3 x 100; variance
softplus + 1e-8; Glorot uniform kernels, zero biases; Adam(0.9, 0.999, 1e-8): `vae_bit.presets.ORIGINAL`.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from jax.scipy.stats import norm

from vae_bit.presets import ORIGINAL

OPTIMIZER: Any = ORIGINAL.recipe.optimizer
BETAS, EPS = (OPTIMIZER.keywords["b1"], OPTIMIZER.keywords["b2"]), 1e-8
Net = list[tuple[Any, Any]]  # kernels [seeds, in, out] and biases [seeds, out]
Nets = dict[str, list[Net]]  # of q(z_1 | x), q(z_2 | z_1), .. and of p(x | z_1), p(z_1 | z_2), ..


class Trainer(NamedTuple):
    """`advance` trains on by some steps and gives the last one's sampled loss [seeds]; `params` reads the networks."""

    advance: Callable[[int], np.ndarray]
    params: Callable[[], Nets]


def widths(layers: int, n: int) -> dict[str, list[tuple[int, ...]]]:
    """Widths of every network from its input to its output."""
    arch: Any = ORIGINAL.model
    above = [(1, *arch.latent_hidden, 2)] * (layers - 1)
    return {"q": [(n, *arch.encoder_hidden, 2), *above], "p": [(1, *arch.decoder_hidden, n), *above]}


def rows(n: int) -> np.ndarray:
    """The rows of a step, [1000, n]."""
    return np.repeat(np.array([[0.0], [1.0]], np.float32), ORIGINAL.recipe.samples, 0).repeat(n, 1)


def rate(step: Any) -> Any:
    """The post's learning rate: a 50-fold exponential decay with one more notch every 1,000 steps."""
    return ORIGINAL.learning_rate * 50.0 ** (-(step + step // 1000) / ORIGINAL.recipe.steps)


def _stack(models: Sequence[Nets]) -> Nets:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *models)


@cache
def torch_vae() -> Any:
    """The module's class: its forward pass is the sampled loss of x [rows, n] under eps [layers, rows, 1]."""
    import torch
    from torch.distributions import Normal
    from torch.nn import functional as F

    def mlp(sizes):
        linear = [torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        for layer in linear:
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        return torch.nn.Sequential(*[part for layer in linear for part in (layer, torch.nn.ELU())][:-1])

    def gaussian(h):
        mean, raw = h.chunk(2, -1)
        return Normal(mean, torch.sqrt(F.softplus(raw) + 1e-8), validate_args=False)

    class VAE(torch.nn.Module):
        def __init__(self, layers, n, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.q, self.p = (torch.nn.ModuleList(map(mlp, sizes)) for sizes in widths(layers, n).values())

        def forward(self, x, eps):
            z, kl = [x], 0.0
            for net, noise in zip(self.q, eps, strict=True):
                q = gaussian(net(z[-1]))
                z.append(q.mean + q.stddev * noise)
                kl = kl + q.log_prob(z[-1])
            for net, below, above in zip(list(self.p)[1:], z[1:], z[2:], strict=False):
                kl = kl - gaussian(net(above)).log_prob(below)
            kl = kl - Normal(0.0, 1.0, validate_args=False).log_prob(z[-1])
            recon = F.binary_cross_entropy_with_logits(self.p[0](z[1]), x, reduction="none")
            return (recon.sum(-1) + kl[:, 0]).mean()

    return VAE


def torch_nets(model: Any) -> Nets:
    """Reads a module's networks."""
    return {
        side: [[(part.weight.detach().numpy().T, part.bias.detach().numpy()) for part in net[::2]] for net in nets]
        for side, nets in (("q", model.q), ("p", model.p))
    }


def torch_loop(layers: int, n: int, seeds: Sequence[int]) -> Trainer:
    """PyTorch: a module, an optimiser, a loop; one seed after another."""
    import torch

    models = [torch_vae()(layers, n, seed) for seed in seeds]
    optimisers = [torch.optim.Adam(model.parameters(), betas=BETAS, eps=EPS) for model in models]
    x, done = torch.from_numpy(rows(n)), [0]

    def train(model, optimiser, steps):
        loss = torch.zeros(())
        for step in range(done[0], done[0] + steps):
            optimiser.param_groups[0]["lr"] = rate(step)
            optimiser.zero_grad()
            loss = model(x, torch.randn(layers, len(x), 1))
            loss.backward()
            optimiser.step()
        return loss.item()

    def advance(steps):
        losses = np.array([train(*pair, steps) for pair in zip(models, optimisers, strict=True)])
        done[0] += steps
        return losses

    return Trainer(advance, lambda: _stack([torch_nets(model) for model in models]))


def torch_vmap(layers: int, n: int, seeds: Sequence[int], compiled: bool = True) -> Trainer:
    """PyTorch: all seeds at once by torch.func, compiled or not, and one fused Adam for the stacked parameters."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    models = [torch_vae()(layers, n, seed) for seed in seeds]
    params, _ = stack_module_state(models)
    optimiser = torch.optim.Adam(params.values(), betas=BETAS, eps=EPS, fused=True)
    x, done = torch.from_numpy(rows(n)), [0]
    gradient = vmap(grad_and_value(lambda p, eps: functional_call(models[0], p, (x, eps))))
    gradient = torch.compile(gradient) if compiled else gradient

    def advance(steps):
        losses = torch.zeros(len(models))
        for step in range(done[0], done[0] + steps):
            optimiser.param_groups[0]["lr"] = rate(step)
            frozen = {name: value.detach() for name, value in params.items()}
            grads, losses = gradient(frozen, torch.randn(len(models), layers, len(x), 1))
            for name, value in params.items():
                value.grad = grads[name]
            optimiser.step()
        done[0] += steps
        return losses.numpy()

    def read():
        for i, model in enumerate(models):
            model.load_state_dict({name: value[i] for name, value in params.items()})
        return _stack([torch_nets(model) for model in models])

    return Trainer(advance, read)


class MLP(nn.Module):
    """Dense layers in row order, ELU between them."""

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, h):
        for i, size in enumerate(self.sizes[1:]):
            h = nn.Dense(size, kernel_init=nn.initializers.glorot_uniform())(nn.elu(h) if i else h)
        return h


def gaussian(h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation, each [rows, 1]."""
    mean, raw = jnp.split(h, 2, -1)
    return mean, jnp.sqrt(nn.softplus(raw) + 1e-8)


class VAE(nn.Module):
    """Applied to x [rows, n] and eps [layers, rows, 1] it gives the sampled loss."""

    layers: int
    n: int

    @nn.compact
    def __call__(self, x, eps):
        sizes, z, kl = widths(self.layers, self.n), [x], jnp.zeros(())
        for l in range(self.layers):
            mean, std = gaussian(MLP(sizes["q"][l], name=f"q_{l}")(z[-1]))
            z.append(mean + std * eps[l])
            kl += norm.logpdf(z[-1], mean, std).sum()
        for l in range(1, self.layers):
            kl -= norm.logpdf(z[l], *gaussian(MLP(sizes["p"][l], name=f"p_{l}")(z[l + 1]))).sum()
        kl -= norm.logpdf(z[-1]).sum()
        logits = MLP(sizes["p"][0], name="p_0")(z[1])
        return (optax.sigmoid_binary_cross_entropy(logits, x).sum() + kl) / len(x)


def flax_nets(layers: int, params: Any) -> Nets:
    """Reads {"q_0": {"Dense_0": {"kernel": .., "bias": ..}, ..}, ..}."""

    def net(dense):
        parts = (dense[f"Dense_{i}"] for i in range(len(dense)))
        return [(np.asarray(part["kernel"]), np.asarray(part["bias"])) for part in parts]

    return {side: [net(params[f"{side}_{l}"]) for l in range(layers)] for side in "qp"}


def train_state(layers: int, n: int, key: jax.Array) -> TrainState:
    """Flax's usual state of one run."""
    model, adam = VAE(layers, n), optax.adam(rate, *BETAS, eps=EPS)
    params = model.init(key, jnp.zeros((1, n)), jnp.zeros((layers, 1, 1)))["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=adam)


def train_step(state: TrainState, key: jax.Array, x: jax.Array) -> tuple[TrainState, jax.Array]:
    """Flax's usual step of one run."""
    key = jax.random.fold_in(key, state.step)
    eps = jax.random.normal(key, (len(state.params) // 2, len(x), 1))
    loss, grads = jax.value_and_grad(lambda params: state.apply_fn({"params": params}, x, eps))(state.params)
    return state.apply_gradients(grads=grads), loss


def flax_loop(layers: int, n: int, seeds: Sequence[int]) -> Trainer:
    """Flax as in its examples: one jitted step, called in a Python loop; one seed after another."""
    x, step = jnp.asarray(rows(n)), jax.jit(train_step)
    keys = [jax.random.key(seed) for seed in seeds]
    states = [train_state(layers, n, key) for key in keys]

    def train(i, steps):
        loss = jnp.zeros(())
        for _ in range(steps):
            states[i], loss = step(states[i], keys[i], x)
        return float(loss)

    def advance(steps):
        return np.array([train(i, steps) for i in range(len(seeds))])

    return Trainer(advance, lambda: _stack([flax_nets(layers, state.params) for state in states]))


def flax_vmap(layers: int, n: int, seeds: Sequence[int]) -> Trainer:
    """Flax: all seeds by vmap, all steps in one loop under jit."""
    x, keys = jnp.asarray(rows(n)), jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
    state = [jax.jit(jax.vmap(partial(train_state, layers, n)))(keys)]

    @partial(jax.jit, donate_argnums=0)
    @partial(jax.vmap, in_axes=(0, 0, None))
    def run(state, key, steps):
        return jax.lax.fori_loop(0, steps, lambda _, carry: train_step(carry[0], key, x), (state, jnp.zeros(())))

    def advance(steps):
        state[0], loss = run(state[0], keys, steps)
        return np.asarray(loss)

    return Trainer(advance, lambda: flax_nets(layers, state[0].params))


def numpyro_svi(layers: int, n: int, seeds: Sequence[int]) -> Trainer:
    """NumPyro: SVI with Trace_ELBO, all seeds by vmap, all steps in one loop under jit."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.module import flax_module
    from numpyro.infer import SVI, Trace_ELBO

    x, sizes = jnp.asarray(rows(n)), widths(layers, n)

    def net(side, l):
        return flax_module(f"{side}_{l}", MLP(sizes[side][l]), input_shape=(1, sizes[side][l][0]))

    def model(x):
        z = numpyro.sample(f"z_{layers}", dist.Normal(jnp.zeros((len(x), 1)), 1.0).to_event())
        for l in range(layers - 1, 0, -1):
            z = numpyro.sample(f"z_{l}", dist.Normal(*gaussian(net("p", l)(z))).to_event())
        numpyro.sample("x", dist.Bernoulli(logits=net("p", 0)(z)).to_event(), obs=x)

    def guide(x):
        z = x
        for l in range(layers):
            z = numpyro.sample(f"z_{l + 1}", dist.Normal(*gaussian(net("q", l)(z))).to_event())

    mean = partial(numpyro.handlers.scale, scale=1.0 / len(x))
    svi = SVI(mean(model), mean(guide), optax.adam(rate, *BETAS, eps=EPS), Trace_ELBO())
    state = [jax.vmap(lambda key: svi.init(key, x))(jax.vmap(jax.random.key)(np.array(seeds, np.uint32)))]

    @partial(jax.jit, donate_argnums=0)
    def run(state, steps):
        carry = (state, jnp.zeros(len(seeds)))
        return jax.lax.fori_loop(0, steps, lambda _, c: jax.vmap(lambda s: svi.update(s, x))(c[0]), carry)

    def advance(steps):
        state[0], loss = run(state[0], steps)
        return np.asarray(loss)

    def read():
        params = svi.get_params(state[0])
        return flax_nets(layers, {name.removesuffix("$params"): value for name, value in params.items()})

    return Trainer(advance, read)
