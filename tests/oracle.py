"""The VAE once more, in float64 numpy, from the mathematics and the layout [W b] of the parameters alone."""

import jax.numpy as jnp
import numpy as np
from scipy.special import log_expit
from scipy.stats import norm

from vae_bit.architecture import read_sum
from vae_bit.networks import ConditionalNet


def network(arch, params, h):
    """Hidden layers and a linear head: [in, K] -> [out, K]."""

    def affine(layer, h):
        kernel = np.asarray(layer["kernel"], np.float64)
        return kernel[:, :-1] @ h + kernel[:, -1:]

    hidden = params["params"].get("mlp", {})
    for name in sorted(hidden):
        v = affine(hidden[name], h)
        h = np.tanh(v) if arch.activation is jnp.tanh else np.where(v > 0.0, v, np.expm1(v))
    return affine(params["params"]["head"], h)


def std(arch, v):
    return np.exp(v) if arch.positive is jnp.exp else np.sqrt(np.logaddexp(0.0, v) + 1e-8)


def encoder(arch, params, n, bit):
    """Mean and standard deviation of q(z_1 | x) at x = bit^n."""
    x = n * bit if arch.encoder_input.read is read_sum else 8.0 * (2.0 * bit - 1.0)
    mean, raw = network(arch, params["q"][0], np.full((1, 1), float(x)))[:, 0]
    return mean, std(arch, raw)


def conditional(arch, params, z):
    """Mean and standard deviation of a Gaussian given a latent z [K]."""
    mean, raw = network(arch, params, z[None])
    return (z + mean, std(arch, raw - 1.0)) if arch.latent is not ConditionalNet else (mean, std(arch, raw))


def energy(arch, params, n, bit, z):
    """-ln p(x | z_1) at x = bit^n: z [K] -> [K]."""
    logits = network(arch, params["p"][0], z[None])[:n]
    return -log_expit(logits if bit else -logits).sum(0)


def normal_kl(mean, std):
    """KL(N(mean, std^2) || N(0, 1))."""
    return (mean**2 + std**2 - 1.0) / 2.0 - np.log(std)


def terms(arch, params, n, bit, eps, kl):
    """recon [K] and kl [L, K] at x = bit^n under noise eps [L, K]; kl as in `Recipe.kl`."""
    layers = len(params["q"])
    z, log_q, entropy = [], [], []
    q = encoder(arch, params, n, bit)
    for l in range(layers):
        q = conditional(arch, params["q"][l], z[-1]) if l else q
        z.append(q[0] + q[1] * eps[l])
        log_q.append(norm.logpdf(z[-1], *q))
        entropy.append(norm.entropy(*q))
    priors = [conditional(arch, params["p"][l], z[l]) for l in range(1, layers)] + [(0.0, 1.0)]
    log_p = [norm.logpdf(z[l], *priors[l]) for l in range(layers)]
    if kl == "sampled":
        return energy(arch, params, n, bit, z[0]), np.array(log_q) - np.array(log_p)
    lower = [-entropy[l] - log_p[l] for l in range(layers - 1)]
    return energy(arch, params, n, bit, z[0]), np.stack(np.broadcast_arrays(*lower, normal_kl(*q), eps[0])[:-1])


def trapezoid(nodes, reach=9.0):
    """Nodes and weights of N(0, 1)."""
    eps = np.linspace(-reach, reach, nodes)
    return eps, norm.pdf(eps) * (eps[1] - eps[0])


def exact(arch, params, n, nodes):
    """recon and kl [L], averaged over the data, by a product rule of `nodes` nodes a layer."""
    layers = len(params["q"])
    one, weight = trapezoid(nodes)
    eps = np.stack([axis.ravel() for axis in np.meshgrid(*[one] * layers)])
    weight = np.prod([axis.ravel() for axis in np.meshgrid(*[weight] * layers)], axis=0)
    points = [terms(arch, params, n, bit, eps, "closed") for bit in (0, 1)]
    return np.mean([recon @ weight for recon, _ in points]), np.mean([kl @ weight for _, kl in points], axis=0)
