"""What a sweep's models are made of, in words and colours, and what each family can reach.

A decoder that sees x_{i-1}, but a blank in its place at rate r, needs z for n_eff = 1 + (n - 1) r dimensions.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from numpy.typing import ArrayLike

from experiments.figures import selection, style
from experiments.figures.selection import Saved
from vae_bit import limits
from vae_bit.limits import LN2
from vae_bit.presets import MIXTURES
from vae_bit.store.table import Table

PRESSURES = 1 + np.geomspace(1e-3, 1e5, 30)  # n_eff / beta at which the limits of mixtures are found, once each
SHADES = {"posterior": "Purples", "prior": "Greens", "decoder": "Greys"}
EFFECTIVE = r"$n_\mathrm{eff}$"
BEFORE = "x<sub>i-1</sub>"  # in HTML
MARKERS = {"layers": "o", "posterior": "s", "prior": "^", "decoder": "D"}


class Family(NamedTuple):
    """Stochastic layers, q(z_1 | x), p(z_L), p(x | z), and the rate at which that sees a blank."""

    layers: int
    posterior: str
    prior: str
    decoder: str
    word_dropout: float


PLAIN = Family(1, "gaussian", "normal", "independent", 1.0)


def there(rows: Table) -> list[Family]:
    """Every family that the rows have, simple ones first."""
    return sorted(
        {Family(*values) for values in zip(*(rows[name].tolist() for name in Family._fields), strict=True)}, key=_rank
    )


def drawn(results: Saved, layers: int) -> Family:
    """The family of the runs of one depth that are drawn."""
    return there(selection.of(results.rows, layers=layers))[0]


def own(rows: Table, family: Family) -> Table:
    """The rows of one family, with the learning rate that has the least median loss."""
    return best_rate(selection.of(rows, **family._asdict()))


def best_rate(rows: Table) -> Table:
    """The rows with the learning rate that has the least median loss."""
    rates = np.unique(rows["learning_rate"])
    medians = [np.median(rows["loss"][rows["learning_rate"] == rate]) for rate in rates]
    return selection.of(rows, learning_rate=rates[np.argmin(medians)])


def alike(results: Saved) -> Table:
    """All finite runs, of every family and beta, with the preset, objective and optimiser of those that are drawn."""
    labels = {name: results.rows[name][0] for name in ("preset", "objective", "optimizer")}
    return selection.of(results.every, **labels)


def at_one_beta(results: Saved) -> Table:
    """Those of `alike` whose beta is that of the runs that are drawn."""
    return selection.of(alike(results), beta=results.rows["beta"][0])


def effective(n: ArrayLike, word_dropout: ArrayLike) -> np.ndarray:
    """n_eff."""
    return 1 + (np.asarray(n) - 1) * np.asarray(word_dropout)


def words(family: Family, before: str = "$x_{i-1}$") -> str:
    """What sets a family apart; `before` is how the bit before x_i is written."""
    prior, posterior, rate = components(family.prior), components(family.posterior), family.word_dropout
    blank = f", dropped at rate {rate:g}" if rate > 0 else ""
    own = {
        "layers": style.depth_name(family.layers),
        "posterior": f"q a mixture of {_gaussians(posterior)}" if posterior < math.inf else "q a flow",
        "prior": f"a learned prior of {_gaussians(prior)}" if prior < math.inf else "q(z) itself as the prior",
        "decoder": f"decoder sees {before}{blank}" if rate < 1 else f"decoder sees a blank for {before}",
    }
    told = [own[name] if known(getattr(family, name)) else getattr(family, name) for name in kinds(family)]
    return ", ".join(told) or "1 layer, Gaussian q"


def _gaussians(count: float) -> str:
    return f"{count:g} Gaussian{'s' * (count != 1)}"


def kinds(family: Family) -> list[str]:
    """In what a family differs from one layer of Gaussians whose decoder sees z alone."""
    return [name for name in MARKERS if getattr(family, name) != getattr(PLAIN, name)]


def known(label: str | float) -> bool:
    """Whether it is a family of this package, of which the limit is known."""
    return not isinstance(label, str) or label in ("independent", "autoregressive") or not math.isnan(components(label))


def components(label: str) -> float:
    """Of how many Gaussians a q or a prior is made; inf of a flow and of a prior that is q(z), NaN of one's own."""
    of = {"gaussian": 1, "normal": 1, "flow": math.inf, "vamp": math.inf}
    return of.get(label, float(label.removeprefix("mixture")) if label in MIXTURES else math.nan)


def reaches_entropy(family: Family) -> bool:
    """Whether its limit is min(n_eff, beta) ln 2."""
    return family.layers > 1 or components(family.posterior) == math.inf or components(family.prior) > 1


def bounded(family: Family) -> bool:
    """Whether the limit of the family is known."""
    return all(known(label) for label in family)


def limit(family: Family, n: ArrayLike, beta: float) -> np.ndarray:
    """The loss that no model of the family beats at each n; NaN where that is not known."""
    if not bounded(family):
        return np.full(np.shape(n), np.nan)
    layers, q, p, _, rate = family
    return limits.limit(layers, n, beta, components(q), components(p), rate)


def information(family: Family, n: float, beta: float) -> float:
    """What the best code of the family holds of the bit, nats; NaN where that is not known."""
    if not bounded(family):
        return math.nan
    layers, q, p, _, rate = family
    return float(limits.information(layers, n, beta, components(q), components(p), rate))


def optimum(family: Family, n: ArrayLike, beta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, recon and KL at the optimum of each real n; NaN where there is none, or it is not known."""
    pressure, unknown = effective(n, family.word_dropout), np.full(np.shape(n), np.nan)
    if not bounded(family):
        return unknown, unknown, unknown
    if reaches_entropy(family):
        return np.minimum(pressure, beta) * LN2, unknown, np.where(pressure > beta, LN2, 0.0)
    number = int(components(family.posterior))
    best = limits.one_layer(pressure, beta) if number == 1 else limits.mixture(pressure, number, beta)
    return best.loss, best.recon, best.kl


def excess(family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Values of n_eff / beta > 1, and limit / beta - ln 2 there, of a family whose limit is found by search."""
    pressure, loss, _, _ = _optima(components(family.posterior))
    return pressure, loss - LN2


def trade_off(family: Family) -> tuple[np.ndarray, np.ndarray]:
    """KL and recon / n_eff of the optima of one layer with q a mixture, from no code on: the same curve for every n."""
    pressure, _, kl, recon = _optima(components(family.posterior))
    share = np.linspace(0, 1, 100, endpoint=False)  # of the way to the first code, along which nothing bends
    return np.append(share * kl[0], kl), np.append(LN2 - share * (LN2 - recon[0] / pressure[0]), recon / pressure)


def searched(family: Family) -> bool:
    """Whether its optimum is known and is reached: one layer, q a mixture of so many Gaussians, prior N(0, 1)."""
    return bounded(family) and not reaches_entropy(family)


def _rank(family: Family) -> tuple:
    q, p = (np.nan_to_num(components(label), nan=np.inf) for label in (family.posterior, family.prior))
    return family.layers, len(kinds(family)), q, p, family


@cache
def _optima(number: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pressures, and loss, KL and recon at beta = 1, of one layer with q a mixture of so many Gaussians."""
    if number == 1:
        fine = 1 + np.geomspace(PRESSURES[0] - 1, PRESSURES[-1] - 1, 400)
        best = limits.one_layer(fine)
        return fine, best.loss, best.kl, best.recon
    best = limits.mixture(PRESSURES, int(number))
    return PRESSURES, best.loss, best.kl, best.recon


def colours(families: list[Family]) -> dict[Family, tuple]:
    """A colour for each: of its depth, or a shade of what it repairs."""
    by = {family: kinds(family)[-1] if kinds(family) else "layers" for family in families}
    colour = {}
    for kind in MARKERS:
        alike = [family for family in families if by[family] == kind]
        shades = colormaps[SHADES.get(kind, "Greys")](np.linspace(0.9, 0.45, max(len(alike), 2)))
        depth = [style.depth_colour(family.layers) for family in alike]
        colour |= dict(zip(alike, depth if kind == "layers" else shades.tolist(), strict=False))
    return colour


def marker(family: Family) -> str:
    """One marker for each kind of repair."""
    return MARKERS[kinds(family)[-1]] if kinds(family) else "o"
