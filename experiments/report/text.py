"""What the report's sections say. Every number comes from the run's results or from the exact limits.

A section is told only where its premise holds (`report_story`), so its sentences may rely on that.
"""

from collections.abc import Callable

import numpy as np

from experiments.figures import families, premises, selection
from experiments.figures.selection import Saved, median
from experiments.figures.style import depth_name
from experiments.figures.transition import of_gaussians
from vae_bit import limits
from vae_bit.limits import LN2


def nats(value: float) -> str:
    """Three decimals, or two digits of a smaller number."""
    if abs(value) >= 0.01 or abs(value) < 1e-6:
        return f"{value:z.3f}"
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")


def at(layers: int, n: int) -> str:
    """The setting that a sentence is about."""
    return f"{depth_name(layers)} and n = {n:,}"


def not_trained(results: Saved, words: str) -> str:
    """Words that are true where training maximised something else than the ELBO."""
    return "" if premises.trains_elbo(results.recipe) else words


def tell_data(results: Saved) -> str:
    seeds = max(selection.of(results.rows, layers=layers, n=n)["n"].size for layers, n in premises.settings(results))
    medians = "They are medians over seeds; densities and bars are those of the run with the median loss." * (seeds > 1)
    other = not_trained(results, "That is not the ELBO: what is best for one need not be best for the other.")
    drawn = families.drawn(results, selection.depths(results.rows)[0])._replace(layers=1)
    family = "" if drawn == families.PLAIN else f" Their family: {families.words(drawn, families.BEFORE)}."
    return f"""<p>Two points, x<sup>(0)</sup> and x<sup>(1)</sup>, equally likely: n zeros or n ones. Whatever n is,
    that is one bit, and the mean of -ln p(x) under any model is at least its entropy, ln 2 = {nats(LN2)} nats. One
    latent number z with a Gaussian prior should be enough to hold a bit. This is what {results.rows["n"].size}
    variational autoencoders made of it. They were trained to maximise {premises.objective(results.recipe)}, with
    &beta; = {premises.beta(results):g} as the KL's weight. {other}{family} The loss is reconstruction
    cost + &beta; KL, the negative of the ELBO, whatever was trained. All numbers are exact integrals, but for the
    learning curves. {medians}</p>"""


def tell_smallest(results: Saved) -> str:
    words = []
    for layers, n in premises.smallest(results):
        names = "recon", "kl", "mutual_information", "nll"
        recon, kl, information, nll = (median(results, layers, n, name) for name in names)
        perfect = nll - LN2 < premises.NOTHING
        model = "the model is as good as the data's entropy allows" if perfect else f"the entropy is {nats(LN2)}"
        words.append(f"""<p>With {at(layers, n)}: reconstruction cost {nats(recon)}, KL cost {nats(kl)}. The code
        holds {nats(information)} nats of x; -ln p(x) = {nats(nll)}: {model}.</p>""")
    return "".join(words)


def tell_nothing_encoded(results: Saved) -> str:
    n, beta = selection.widths(results.rows)[0], premises.beta(results)
    pressure, name = premises.pressure(results, n), effective(results)
    if pressure > beta:
        return f"""{tell_smallest(results)}<p>The ELBO rewards a code here, as {name} exceeds
        &beta; = {beta:g}: without one the loss is at least {name} ln 2 = {nats(pressure * LN2)}, and the limit is
        {limits_at(results, n)}.</p>"""
    mixture = """With one layer it costs more: were z used and the bound tight, the prior would be the mixture of
    q(z | x<sup>(0)</sup>) and q(z | x<sup>(1)</sup>), and two Gaussians make up one Gaussian only where they are the
    same.""" * (premises.plain(results.rows) and any(layers == 1 for layers, _ in premises.smallest(results)))
    return f"""{tell_smallest(results)}<p>For the ELBO nothing is lost: a code that holds I
    nats of x saves at most {name} I and costs at least &beta; I, and {name} is no more than &beta; = {beta:g}.
    {mixture}</p>"""


def effective(results: Saved) -> str:
    """The name of the number of dimensions for which the decoder needs z."""
    return "n" if results.rows["word_dropout"][0] == 1.0 else "n<sub>eff</sub>"


def tell_encoded(results: Saved) -> str:
    n, beta = selection.widths(results.rows)[0], premises.beta(results)
    best = [
        f"{nats(families.information(families.drawn(results, layers), n, beta))} nats with {depth_name(layers)}"
        for layers, n in premises.smallest(results)
    ]
    pressure = premises.pressure(results, n) / beta
    pays = f"above it a code pays, and the best one holds {' and '.join(best)}" if pressure > 1 else "no code pays"
    where = "above" if pressure > 1 else "not above"
    return f"""{tell_smallest(results)}<p>Under the ELBO all turns on {effective(results)} / &beta;, here
    {pressure:.3g}, which is {where} 1: {pays}.</p>"""


def limits_at(results: Saved, n: int) -> str:
    """The limits of all depths at one n."""
    beta = premises.beta(results)
    depths = [layers for layers, _ in premises.smallest(results)]
    each = [float(families.limit(families.drawn(results, layers), n, beta)) for layers in depths]
    return " and ".join(f"{nats(limit)} with {depth_name(layers)}" for limit, layers in zip(each, depths, strict=True))


def costs_per_dimension(results: Saved) -> str:
    """Reconstruction cost per dimension of every setting, and of which depths it does not fall with n."""
    words = []
    for layers in selection.depths(results.rows):
        costs = premises.series(results, layers, "recon_per_dim")
        told = zip(costs, selection.widths(results.rows, layers), strict=True)
        shown = ", ".join(f"{cost:.2g} at n = {n:,}" for cost, n in told)
        fall = "" if len(costs) == 1 or premises.falls(costs) else "; it does not fall throughout"
        words.append(f"With {depth_name(layers)}: {shown}{fall}.")
    return " ".join(words)


def tell_pushed_open(results: Saved) -> str:
    n = selection.widths(results.rows)[-1]
    return f"""<p>Given z the decoder draws the n dimensions independently, so only z can make them agree. A model
    that ignores z loses n ln 2: {nats(n * LN2)} nats at n = {n:,}. The larger n, the higher the pressure, and the
    reconstruction cost per dimension, in nats, falls. {costs_per_dimension(results)}</p>"""


def tell_reconstruction(results: Saved) -> str:
    if results.rows["word_dropout"][0] < 1.0:
        return f"""<p>The decoder sees the bit before each, dropped at the rate r =
        {results.rows["word_dropout"][0]:g}: only where that is blank does it need z. The reconstruction cost per
        dimension, in nats, is what the exact loss counts. {costs_per_dimension(results)}</p>"""
    return f"""<p>Given z the decoder draws the n dimensions independently, so only z can make them agree. Without z
    each costs at least ln 2 = {nats(LN2)} nats. The reconstruction cost per dimension, in nats, is what the exact
    loss counts. {costs_per_dimension(results)}</p>"""


def tell_losses(results: Saved, then: Callable[[int, int], str]) -> str:
    """The loss of the largest n of each depth, and what follows of it."""
    words = []
    for layers, n in premises.largest(results):
        loss, limit = (nats(median(results, layers, n, name)) for name in ("loss", "limit"))
        family, pressure = families.drawn(results, layers), premises.pressure(results, n)
        reached = families.searched(family) or pressure <= premises.beta(results)
        reach = "the best that any networks could reach" if reached else "the limit, approached and never reached,"
        bound = f"; {reach} is {limit}" if families.bounded(family) else ""
        words.append(f"With {at(layers, n)} the loss is {loss} nats{bound}{then(layers, n)}.")
    beside = "The post's own runs, shown beside, were estimated from samples, and may therefore lie a little below."
    return " ".join([*words, beside if premises.post_runs(results) else ""])


def tell_price_of_a_code(results: Saved) -> str:
    said = tell_losses(results, lambda layers, n: f", so training left {nats(median(results, layers, n, 'gap'))}")
    return f"<p>A code has its price. {said}</p>"


def tell_exact_losses(results: Saved) -> str:
    said = tell_losses(results, lambda layers, n: f", and -ln p(x) = {nats(median(results, layers, n, 'nll'))}")
    return f"<p>{said} {not_trained(results, 'Training did not minimise this loss.')}</p>"


def tell_information(results: Saved) -> str:
    """What the code of the largest n holds, and how far it leaves q(z) from the prior, at each depth."""
    words = []
    for layers, n in premises.largest(results):
        information, mismatch = (
            nats(median(results, layers, n, name)) for name in ("mutual_information", "marginal_kl")
        )
        words.append(f"""With {at(layers, n)} the code holds {information} nats of the bit's {nats(LN2)}, and leaves
        q(z) {mismatch} nats away from the prior.""")
    return " ".join(words)


def tell_valley(results: Saved) -> str:
    return f"""<p>The encoding distribution q(z), the average of q(z | x) over the data, shows where the price comes
    from: with one layer a valley opens between the codes, just where the prior is highest.
    {tell_information(results)}</p>"""


def tell_encoding(results: Saved) -> str:
    return f"""<p>The encoding distribution q(z) is the average of q(z | x) over the data; only where it is close to
    the prior do draws from the prior meet codes. {tell_information(results)}</p>"""


def shares(results: Saved) -> str:
    """How many of the draws from the prior are data points, at the n whose draws are shown."""
    n = premises.legible_width(results)
    depths = [layers for layers, width in premises.settings(results) if width == n]
    told = [f"{median(results, layers, n, 'valid_mass'):.1%} with {depth_name(layers)}" for layers in depths]
    return f"At n = {n:,} the share of draws that are data points is {' and '.join(told)}."


def tell_averages(results: Saved) -> str:
    return f"""<p>Whoever draws z from the prior will often land in that valley of the one layer, where the decoder has
    seen next to no code and answers with an average of the two points, in which each dimension goes its own way.
    {shares(results)}</p>"""


def tell_draws(results: Saved) -> str:
    blind = 2.0 ** (1 - premises.legible_width(results))
    return f"""<p>Where z says nothing of x the decoder answers with an average of the two points, in which each
    dimension goes its own way; of such draws {blind:.2%} or more are data points. {shares(results)}</p>"""


def tell_shares(results: Saved) -> str:
    return f"""<p>What the decoder makes of z drawn from the prior, each bit with the one before it in sight.
    {shares(results)}</p>"""


def half(results: Saved) -> str:
    """Why a second layer might help."""
    still = ", every part of it still Gaussian," if premises.plain(results.rows) else ""
    return f"""If z decided x by its sign alone, its posterior would be half a Gaussian, which no Gaussian resembles. A
    second layer{still} can get there: q(z<sub>2</sub> | x) is an average over z<sub>1</sub>, and so of any shape."""


def tell_two_layers(results: Saved) -> str:
    n = premises.compared(results) or 0
    loss, recon = ([nats(median(results, layers, n, name)) for layers in (1, 2)] for name in ("loss", "recon"))
    return f"""<p>{half(results)} At n = {n:,} the second layer takes the loss from {loss[0]} to {loss[1]} nats, and the
    reconstruction cost from {recon[0]} to {recon[1]}.</p>"""


def tell_no_help(results: Saved) -> str:
    n = premises.compared(results) or 0
    loss, recon = ([nats(median(results, layers, n, name)) for layers in (1, 2)] for name in ("loss", "recon"))
    return f"""<p>{half(results)} Here it has not lowered both costs. At n = {n:,} the loss is {loss[0]} nats with one
    layer and {loss[1]} with two, the reconstruction cost {recon[0]} and {recon[1]}.</p>"""


BY_HAND = """The post explains it with a model made by hand, whose z<sub>1</sub> is N(&plusmn;a, 1) as z<sub>2</sub> is
negative or positive. Its posteriors do tend to N(a, 1) and half a Gaussian as a grows. But then p(z<sub>2</sub> |
z<sub>1</sub>) is half a Gaussian too, and to fit that with a Gaussian costs ever more."""


def tell_steep_map(results: Saved) -> str:
    _, n = next(pair for pair in premises.largest(results) if pair[0] == 2)
    return f"""<p>{BY_HAND} The median run found another way: z<sub>1</sub> follows z<sub>2</sub> closely along a steep
    curve, so that each almost decides the other and Gaussians are good enough. At n = {n:,} the posteriors of the
    trained model are {nats(median(results, 2, n, "posterior_kl"))} nats away from its own q.</p>"""


def tell_other_map(results: Saved) -> str:
    _, n = next(pair for pair in premises.largest(results) if pair[0] == 2)
    return f"""<p>{BY_HAND} Another way is a z<sub>1</sub> that follows z<sub>2</sub> closely along a steep curve, so
    that each almost decides the other. The median run is not there: at n = {n:,} the loss is
    {nats(median(results, 2, n, "gap"))} nats above its limit, and the posteriors of the trained model are
    {nats(median(results, 2, n, "posterior_kl"))} nats away from its own q.</p>"""


def tell_items(results: Saved) -> str:
    words = []
    for layers, n in premises.largest(results):
        model, posterior = median(results, layers, n, "nll") - LN2, median(results, layers, n, "posterior_kl")
        words.append(f"""With {at(layers, n)} the model is {nats(model)} nats worse than the data's entropy, and the
        sum {nats(posterior)} nats worse than the model.""")
    return f"""<p>Reconstruction cost and KL together, the KL unweighted, are the entropy of the data, plus what the
    model gets wrong, plus KL(q(z | x) || p(z | x)), what q gets wrong. {" ".join(words)} The KL alone also splits in
    two at the top layer: the information that the code holds of x, at most ln 2, and the mismatch of q(z) and the
    prior.</p>"""


def tell_transition(results: Saved) -> str:
    collapsed, opened = limits.one_layer([1.0, 2.0]).mean
    trained = f"for {premises.objective(results.recipe)}, with every &beta; and learning rate"
    dots = f"The dots are runs of one layer, trained {trained}." * (of_gaussians(results)["n"].size > 0)
    return f"""<p>For one layer the code that is best for the ELBO can be computed for every real n, and since the KL's
    weight &beta; acts as a division of n, for every &beta;. Up to n / &beta; = 1 it is empty (m = {nats(collapsed)});
    then it opens continuously, as the sixth root of what n / &beta; exceeds 1 by, and at twice that already stands
    at m = {nats(opened)}. {dots}</p>"""
