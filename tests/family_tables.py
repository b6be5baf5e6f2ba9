"""Tables of every family's runs without training: each stands at its family's optimum, but for a known excess."""

from pathlib import Path
from typing import Any

import numpy as np
from sweeps import LABELS

from experiments.figures import families
from experiments.figures.families import PLAIN, Family
from experiments.figures.selection import Saved
from vae_bit import limits
from vae_bit.limits import LN2

RECIPE = {"objective": "elbo", "function": "vae_bit.objectives.elbo", "k": 1, "steps": 300}
SEEN = Family(1, "gaussian", "normal", "autoregressive", 0.1)
ALL = [
    PLAIN,
    Family(2, "gaussian", "normal", "independent", 1.0),
    *(PLAIN._replace(posterior=label) for label in ("mixture2", "mixture4", "flow")),
    *(PLAIN._replace(prior=label) for label in ("mixture2", "vamp")),
    *(SEEN._replace(word_dropout=rate) for rate in (0.0, 0.1, 0.5)),
]
EXCESS = 1e-3


def optimum(family: Family, n: float, beta: float) -> tuple[float, float, float]:
    """recon, KL and information of the best model, or, where there is none, of what it tends to."""
    pressure = 1 + (n - 1) * family.word_dropout
    if families.reaches_entropy(family):
        opened = pressure > beta
        return (0.0 if opened else pressure * LN2), LN2 * opened, LN2 * opened
    best = limits.mixture(pressure, int(families.components(family.posterior)), beta)
    return float(best.recon), float(best.kl), float(best.information)


def row(family: Family, n: int, beta: float, seed: int, learning_rate: float) -> dict[str, Any]:
    recon, kl, information = optimum(family, n, beta)
    recon += EXCESS * (1 + seed) * (1 if learning_rate == 0.01 else 10)
    limit = float(families.limit(family, np.float64(n), beta))
    row = LABELS._asdict() | family._asdict() | {"n": n, "beta": beta, "learning_rate": learning_rate, "seed": seed}
    row |= {"loss": recon + beta * kl, "recon": recon, "kl": kl, "mutual_information": information, "status": "ok"}
    return row | {
        "limit": limit,
        "gap": row["loss"] - limit,
        "recon_per_dim": recon / n,
        "marginal_kl": kl - information,
    }


def saved(own=ALL, widths=(1, 2, 5, 10, 100, 1000), betas=(1.0,), rates=(0.01,), seeds=(0, 1, 2)) -> Saved:
    """Results of the first family alone as `rows`, of all as `every`."""
    settings = [(f, n, b, s, r) for f in own for n in widths for b in betas for r in rates for s in seeds]
    table = [row(*setting) for setting in settings]
    every = {name: np.array([each[name] for each in table]) for name in table[0]}
    labels = ("layers", "posterior", "prior", "decoder", "word_dropout", "beta", "learning_rate")
    drawn = np.logical_and.reduce([every[name] == every[name][0] for name in labels])
    rows = {name: column[drawn] for name, column in every.items()}
    return Saved(Path(), rows, {}, every, [], RECIPE, {})
