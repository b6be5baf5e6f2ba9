"""Terms of the evidence lower bound (ELBO) as pure functions of log densities; nats, one example, nothing averaged.

An `elbo` is to be raised, a `loss` is to be lowered: loss = -elbo. A layer's divergence is written kl_l; see
Kingma and Welling (2014) for one layer and Rezende, Mohamed and Wierstra (2014) for a chain of L.
"""

from jax import Array

from vae_bit.distributions import Normal, normal_entropy, normal_kl_standard, normal_log_prob


def sampled_kl(z: Array, q: Normal, p: Normal) -> Array:
    """ln q(z) - ln p(z), whose mean over z ~ q is KL(q || p): [..., d] -> [...].

    For a layer below the top p was itself conditioned on a draw that came from this z, so the mean is the layer's
    share of the bound, E_q[ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1})], and no closed form of two Gaussians.
    """
    return normal_log_prob(z, q) - normal_log_prob(z, p)


def partly_closed_kl(z: Array, q: Normal, p: Normal) -> Array:
    """-H(q) - ln p(z): `sampled_kl` with its first term in closed form, so of lower variance: [..., d] -> [...]."""
    return -normal_entropy(q) - normal_log_prob(z, p)


def top_kl(q: Normal) -> Array:
    """KL(q(z_L | z_{L-1}) || N(0, 1)) in closed form: [..., d] -> [...]."""
    return normal_kl_standard(q)


def loss(recon: Array, kl: Array, beta: Array | float = 1.0) -> Array:
    """The beta-VAE's loss, recon + beta * sum_l kl_l, with kl [L, ...] (Higgins et al. 2017); beta = 1 is -ELBO."""
    return recon + beta * kl.sum(0)
