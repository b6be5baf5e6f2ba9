"""What holds of a sweep's runs: the predicates on which the report's sentences and the figures' titles rest.

Each is a function of the results. Where there are several seeds they speak of medians.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import ndtri

from experiments.figures import families, selection, style
from experiments.figures.selection import Missing, Saved
from vae_bit.limits import LN2
from vae_bit.store.table import COLLAPSED, Table
from vae_bit.trained import TrainedModel

NOTHING = 5e-4  # nats that three decimals do not show
NEAR = 0.05  # nats that are close to a limit, or to the prior
LEGIBLE = 50  # most dimensions of a sample that can be told apart in a strip
# Of the top latent, where the prior is; a valley may be narrow.
GRID = np.unique(np.concatenate([np.linspace(-3.5, 3.5, 701), np.linspace(-0.1, 0.1, 401)]))
NORMAL = ndtri((np.arange(400) + 0.5) / 400)  # equally likely values of the prior

OBJECTIVES = {
    "elbo": "the ELBO",
    "path": "the ELBO, with its path derivative",
    "free_bits": "the ELBO with free bits, max(KL, ln 2) in place of the KL",
    "iwae": "the importance-weighted bound",
    "dreg": "the importance-weighted bound, with its doubly reparameterised gradient",
    "renyi": "the variational Rényi bound",
}


def objective(recipe: Mapping[str, Any]) -> str:
    """What training maximises, in words."""
    name: str = recipe["objective"]
    words = OBJECTIVES.get(name, name)
    return f"{words}, {recipe['k']} draws in each" if recipe["k"] > 1 else words


def objective_name(recipe: Mapping[str, Any]) -> str:
    """The objective as the command line calls it."""
    return f"objective: {recipe['objective']}" + (f", k = {recipe['k']}" if recipe["k"] > 1 else "")


def trains_elbo(recipe: Mapping[str, Any]) -> bool:
    """Whether training maximises the ELBO, which the limits bound; on one draw the bounds of k draws are the ELBO."""
    function = recipe["function"].removeprefix("vae_bit.objectives.")
    return function in ("elbo", "path") or (function in ("iwae", "dreg", "renyi") and recipe["k"] == 1)


def setting(recipe: Mapping[str, Any], rows: Table, every: Table) -> str:
    """What was chosen for the runs `rows`, which share one value of each of `selection.CHOSEN`, among `every`."""
    chosen = [objective_name(recipe)]
    for name in ("posterior", "prior", "decoder", "word_dropout"):
        trained = np.unique(every[name]).size
        if trained > 1 or (rows[name].size and rows[name][0] != selection.PREFERRED[name]):
            among = f" (one of {trained} trained)" if trained > 1 else ""
            chosen += [
                f"{name.replace('_', ' ')}: {selection.short(value)}{among}" for value in np.unique(rows[name]).tolist()
            ]
    for name, symbol in (("beta", "β"), ("learning_rate", "learning rate")):
        trained = np.unique(every[name]).size
        among = f" (one of {trained} trained)" if trained > 1 else ""
        chosen += [f"{symbol} = {value:g}{among}" for value in np.unique(rows[name])]
    return "; ".join([*chosen, f"{recipe['steps']:,} steps"])


def beta(results: Saved) -> float:
    """The weight of the KL in the runs that are drawn."""
    return results.rows["beta"][0].item()


def plain(rows: Table) -> bool:
    """Whether q is Gaussian, p(z) is N(0, 1), and the decoder sees z alone, as in the post."""
    return all(np.all(rows[name] == selection.PREFERRED[name]) for name in ("posterior", "prior", "decoder"))


def adds_up(results: Saved) -> bool:
    """Whether loss at beta = 1 = -ln p(x) + KL(q(z | x) || p(z | x)): p(x) is of a decoder that drops nothing."""
    rows = results.rows
    return bool(np.all((rows["decoder"] == "independent") | (rows["word_dropout"] == 0.0)))


def as_published(rows: Table) -> bool:
    """Whether the post's own runs are of the same kind."""
    return plain(rows) and bool(np.all(rows["beta"] == 1.0))


def pressure(results: Saved, n: int) -> float:
    """n_eff, for how many dimensions the decoder that is drawn needs z at an n."""
    return float(families.effective(n, results.rows["word_dropout"][0]))


def settings(results: Saved) -> list[tuple[int, int]]:
    """Every (layers, n) there is."""
    return [(layers, n) for layers in selection.depths(results.rows) for n in selection.widths(results.rows, layers)]


def require(results: Saved, layers: int, n: int | None = None) -> None:
    """Missing where no run that is drawn has that depth, or that depth and n."""
    if layers not in selection.depths(results.rows):
        raise Missing(f"layers={layers}: no run has them; expected one of {selection.depths(results.rows)}")
    if n is not None and n not in selection.widths(results.rows, layers):
        widths = selection.widths(results.rows, layers)
        raise Missing(f"n={n}: no run of {style.depth_name(layers)} has it; expected one of {widths}")


def largest(results: Saved) -> list[tuple[int, int]]:
    """(layers, n) of the largest n of each depth."""
    return [(layers, selection.widths(results.rows, layers)[-1]) for layers in selection.depths(results.rows)]


def smallest(results: Saved) -> list[tuple[int, int]]:
    """(layers, n) of each depth that has the smallest n of all."""
    n = selection.widths(results.rows)[0]
    return [pair for pair in settings(results) if pair[1] == n]


def compared(results: Saved) -> int | None:
    """The largest n of both one and two layers, if there is one."""
    shared = {n for layers, n in settings(results) if layers == 1} & {
        n for layers, n in settings(results) if layers == 2
    }
    return max(shared, default=None)


def series(results: Saved, layers: int, name: str) -> list[float]:
    """The medians of a column, by ascending n."""
    return [selection.median(results, layers, n, name) for n in selection.widths(results.rows, layers)]


def falls(values: Sequence[float]) -> bool:
    """Whether there are several, each less than the one before."""
    return len(values) > 1 and all(later < earlier for earlier, later in pairwise(values))


def encodes(results: Saved, layers: int, n: int) -> bool:
    """Whether the code holds something of x."""
    return selection.median(results, layers, n, "mutual_information") >= COLLAPSED


def nothing_encoded(results: Saved) -> bool:
    """Whether at the smallest n no code holds anything of x."""
    return not any(encodes(results, *pair) for pair in smallest(results))


def pushed_open(results: Saved) -> bool:
    """Whether a larger n has forced a code: under the ELBO each dimension then costs less, and the code is used."""
    costs = [series(results, layers, "recon_per_dim") for layers in selection.depths(results.rows)]
    used = all(encodes(results, *pair) for pair in largest(results))
    alone = bool(np.all(results.rows["word_dropout"] == 1.0))
    return trains_elbo(results.recipe) and alone and used and all(map(falls, costs))


def priced(results: Saved) -> bool:
    """Whether training minimised the loss, its limit is known, and what is left at the largest n is a code's price."""
    known = bool(np.all(np.isfinite(results.rows["limit"])))
    return trains_elbo(results.recipe) and known and all(encodes(results, *pair) for pair in largest(results))


def one_layer_pays_more(results: Saved) -> bool:
    """Whether under the ELBO one layer loses more the larger n, above all deeper models, which stay near ln 2."""
    depths, deeper = selection.depths(results.rows), [pair for pair in settings(results) if pair[0] > 1]
    near = [abs(selection.median(results, *pair, "loss") - LN2) < NEAR for pair in deeper]
    rises = 1 in depths and falls(series(results, 1, "loss")[::-1])
    return priced(results) and rises and bool(near) and all(near)


def has_valley(results: Saved, layers: int, n: int) -> bool:
    """Whether q(z) of the top layer has two peaks, and between them, around 0, at most half their height."""
    q = selection.median_model(results, layers, n).top_density(GRID).mean(0)
    peaks = np.minimum(np.maximum.accumulate(q), np.maximum.accumulate(q[::-1])[::-1])
    deepest = np.argmin(q / peaks)
    return bool(q[deepest] < 0.5 * peaks[deepest] and abs(GRID[deepest]) < 0.5)


def leaves_prior(results: Saved) -> bool:
    """Whether one layer's code at the largest n has a valley where the prior is highest."""
    normal = bool(np.all(results.rows["prior"] == "normal"))
    return normal and any(has_valley(results, *pair) for pair in largest(results) if pair[0] == 1)


def only_one_layer_leaves(results: Saved) -> bool:
    """Whether under the ELBO one layer's q(z) is the further from the prior the larger n, that of deeper ones near."""
    far = {pair: selection.median(results, *pair, "marginal_kl") for pair in settings(results)}
    deeper = [value for (layers, _), value in far.items() if layers > 1]
    return (
        trains_elbo(results.recipe)
        and plain(results.rows)
        and leaves_prior(results)
        and falls(series(results, 1, "marginal_kl")[::-1])
        and len(deeper) > 0
        and max(deeper) < NEAR
    )


def legible_width(results: Saved) -> int:
    """The largest n whose samples show their dimensions one by one, or the largest of all."""
    widths = selection.widths(results.rows)
    return max([n for n in widths if 1 < n <= LEGIBLE], default=widths[-1])


def averages(results: Saved) -> bool:
    """Whether one layer, where draws are shown, makes of its valley more than one in 20 that is no data point."""
    n = legible_width(results)
    usual = all(np.all(results.rows[name] == selection.PREFERRED[name]) for name in ("prior", "decoder"))
    own = n > 1 and (1, n) in settings(results) and usual
    return own and selection.median(results, 1, n, "valid_mass") < 0.95 and has_valley(results, 1, n)


def second_layer_helps(results: Saved) -> bool:
    """Whether at the largest n of both depths two layers lose less, and reconstruct better."""
    n = compared(results)
    if n is None:
        return False
    loss, recon = (selection.median(results, 1, n, x) - selection.median(results, 2, n, x) for x in ("loss", "recon"))
    return loss > NOTHING and recon > 0


def steep_map(results: Saved) -> bool:
    """Whether the two-layer model of the largest n is near its limit by z_1 that follows z_2 along a steep map."""
    own = [pair for pair in largest(results) if pair[0] == 2 and plain(results.rows)]
    near = all(selection.median(results, *pair, "gap") < NEAR and encodes(results, *pair) for pair in own)
    return bool(own) and near and all(is_steep(selection.median_model(results, *pair)) for pair in own)


def is_steep(model: TrainedModel) -> bool:
    """Whether z_2 explains 95 % of the variance of z_1, and the map climbs around 0 twice as fast as evenly."""
    p = selection.conditional(model, "p", 1, NORMAL)
    explained = np.var(p.mean) / (np.var(p.mean) + np.mean(np.square(p.std)))
    within, middle = abs(NORMAL) < 2, abs(NORMAL) < 0.25
    return bool(explained > 0.95 and np.ptp(p.mean[middle]) > 2 * np.ptp(p.mean[within]) * 0.25 / 2)


def post_runs(results: Saved) -> list[dict]:
    """The post's own runs of the same depths and n, if beta is 1 as theirs."""
    own = settings(results) if as_published(results.rows) else []
    return [run for run in selection.published() if (run["layers"], run["n"]) in own]
