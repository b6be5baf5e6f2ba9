"""The post's recipe in NumPy with hand-written gradients, many seeds at once: the strongest peer at width 10."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmark.peers import BETAS, EPS, Net, Nets, Trainer, rate, rows, widths


def forward(net: Net, h: np.ndarray) -> tuple[np.ndarray, list]:
    """A network of W [seeds, out, in], b [seeds, out, 1] on h [.., in, rows]; and, per layer, its input and ELU'."""
    tape: list = []
    for i, (w, b) in enumerate(net):
        slope = None
        if i:
            slope = np.minimum(h, 0.0)
            np.exp(slope, out=slope)  # the derivative of ELU, and ELU itself is max(h, slope - 1)
            np.maximum(h, slope - 1.0, out=h)
        tape.append((h, slope))
        h = w @ h
        h += b
    return h, tape


def backward(net: Net, grads: Net, tape: list, g: np.ndarray, to_input: bool = True) -> Any:
    """Writes the gradients for the output's gradient g into `grads`; returns the input's."""
    for i in reversed(range(len(net))):
        h, slope = tape[i]
        np.matmul(g, h.swapaxes(-1, -2), out=grads[i][0])
        g.sum(-1, keepdims=True, out=grads[i][1])
        if i or to_input:
            g = net[i][0].swapaxes(-1, -2) @ g
        if i:
            g *= slope
    return g


def softplus(v: np.ndarray) -> np.ndarray:
    """ln(1 + e^v)."""
    return np.maximum(v, 0.0) + np.log1p(np.exp(-np.abs(v)))


def sigmoid(v: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-v); e^-v may overflow to infinity, which is right."""
    v = np.exp(-v)
    v += 1.0
    return np.reciprocal(v, out=v)


def numpy_gradient(nets: Nets, grads: Nets, x: np.ndarray, eps: np.ndarray, with_loss: bool = False) -> Any:
    """Writes the gradient for x [n, rows], eps [layers, seeds, 1, rows] into `grads`; the loss [seeds] if asked.

    loss = mean over rows of softplus(logits) - x logits, summed, - sum_l ln std_l - eps_l^2 / 2 - ln p(z_l | z_{l+1}).
    """
    z, q_tapes, q = [x], [], []
    for net, noise in zip(nets["q"], eps, strict=True):
        h, tape = forward(net, z[-1])
        mean, raw = h[:, :1], h[:, 1:]
        q.append((raw, softplus(raw) + 1e-8))
        q_tapes.append(tape)
        z.append(mean + np.sqrt(q[-1][1]) * noise)
    logits, p_tape = forward(nets["p"][0], z[1])
    scale = 1.0 / x.shape[-1]
    loss = 0.0
    if with_loss:
        loss = (softplus(logits) - x * logits).sum((1, 2)) - np.log([v for _, v in q]).sum((0, 2, 3)) / 2
        loss += ((np.square(z[-1]) - np.square(eps).sum(0)) / 2).sum((1, 2))
    g = sigmoid(logits)
    g -= x
    g *= scale
    dz = [None, backward(nets["p"][0], grads["p"][0], p_tape, g)] + [0.0] * (len(z) - 2)
    for l in range(1, len(z) - 1):
        h, tape = forward(nets["p"][l], z[l + 1])
        error, raw = z[l] - h[:, :1], h[:, 1:]
        variance = softplus(raw) + 1e-8
        pull = error / variance
        if with_loss:
            loss += (error * pull + np.log(variance)).sum((1, 2)) / 2
        g = np.concatenate([-pull, (1.0 / variance - pull * pull) / 2 * sigmoid(raw)], 1)
        dz[l] += scale * pull
        dz[l + 1] = backward(nets["p"][l], grads["p"][l], tape, scale * g)
    dz[-1] = dz[-1] + scale * z[-1]
    for l in reversed(range(len(q))):
        raw, variance = q[l]
        d_variance = dz[l + 1] * eps[l] / (2 * np.sqrt(variance)) - scale / (2 * variance)
        g = np.concatenate([dz[l + 1], d_variance * sigmoid(raw)], 1)
        g = backward(nets["q"][l], grads["q"][l], q_tapes[l], g, to_input=l > 0)
        if l:
            dz[l] = dz[l] + g
    return loss * scale


def views(flat: np.ndarray, layers: int, n: int) -> Nets:
    """The networks whose parameters lie in flat [seeds, P], as W [seeds, out, in] and b [seeds, out, 1]."""
    at, nets = 0, {}
    for side, sizes in widths(layers, n).items():
        nets[side] = [[] for _ in sizes]
        for net, size in zip(nets[side], sizes, strict=True):
            for fan_in, fan_out in itertools.pairwise(size):
                w, b, at = at, at + fan_in * fan_out, at + (fan_in + 1) * fan_out
                net.append((flat[:, w:b].reshape(-1, fan_out, fan_in), flat[:, b:at].reshape(-1, fan_out, 1)))
    return nets


def numpy_batched(layers: int, n: int, seeds: Sequence[int]) -> Trainer:
    """All seeds at once by hand-written gradients, samples in columns, the parameters of a seed in one row."""
    count = sum((i + 1) * o for nets in widths(layers, n).values() for s in nets for i, o in itertools.pairwise(s))
    flat, grad, first, second = np.zeros((4, len(seeds), count), np.float32)
    nets, grads = views(flat, layers, n), views(grad, layers, n)
    rng, x, done = np.random.default_rng(list(seeds)), np.ascontiguousarray(rows(n).T), [0]
    for w, _ in itertools.chain(*nets["q"], *nets["p"]):
        bound = np.sqrt(6.0 / (w.shape[1] + w.shape[2]))
        w[:] = rng.uniform(-bound, bound, w.shape)

    def advance(steps):
        loss = np.zeros(len(seeds))
        for step in range(done[0], done[0] + steps):
            eps = rng.standard_normal((layers, len(seeds), 1, x.shape[-1]), np.float32)
            loss = numpy_gradient(nets, grads, x, eps, with_loss=step == done[0] + steps - 1)
            for moment, beta, new in ((first, BETAS[0], grad), (second, BETAS[1], grad * grad)):
                moment *= beta
                moment += (1.0 - beta) * new
            size = rate(step) / (1.0 - BETAS[0] ** (step + 1))
            flat[:] -= size * first / (np.sqrt(second / (1.0 - BETAS[1] ** (step + 1))) + EPS)
        done[0] += steps
        return loss

    def read():
        return {s: [[(w.swapaxes(1, 2), b[..., 0]) for w, b in net] for net in nets[s]] for s in nets}

    return Trainer(advance, read)
