"""What the report says, section by section. Every number comes from the run's results or from the exact limits."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import figures, plots_codes, saved, style
from experiments.saved import Missing, Saved
from vae_bit import limits
from vae_bit.limits import LN2


class Section(NamedTuple):
    """A heading, what to say below it (HTML; Missing where the results do not tell), and the figure to show."""

    heading: str
    tell: Callable[[Saved], str]
    draw: Callable[[Saved], Figure] | None


def nats(value: float) -> str:
    """Three decimals, or two digits of a smaller number."""
    if abs(value) >= 0.01 or abs(value) < 1e-6:
        return f"{value:z.3f}"
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")


def median(results: Saved, layers: int, n: int, name: str) -> float:
    """The median over seeds of a column."""
    return float(np.median(saved.of(results.rows, layers=layers, n=n)[name]))


def largest(results: Saved, layers: int) -> int:
    """The largest n of a depth; Missing where the run has none."""
    if layers not in saved.depths(results.rows):
        raise Missing(f"it needs runs with {style.depth_name(layers)}")
    return saved.widths(results.rows, layers)[-1]


def tell_data(results: Saved) -> str:
    return f"""<p>Two points, x<sup>(0)</sup> and x<sup>(1)</sup>, equally likely: n zeros or n ones. Whatever n is,
    that is one bit, and no model can lose less than its entropy, ln 2 = {nats(LN2)} nats. One latent number z with
    a Gaussian prior should be enough to hold a bit. This is what {results.rows["n"].size} variational autoencoders
    made of it. All numbers are exact integrals, but for the learning curves; where there are several seeds they are
    medians, and densities are those of the run with the median loss.</p>"""


def tell_collapse(results: Saved) -> str:
    words = []
    for layers in saved.depths(results.rows):
        if 1 in saved.widths(results.rows, layers):
            names = "recon", "kl", "mutual_information", "nll"
            recon, kl, information, nll = (nats(median(results, layers, 1, name)) for name in names)
            words.append(f"""<p>With {style.depth_name(layers)}: reconstruction cost {recon}, KL cost {kl}. The code
            holds {information} nats of x. Yet -ln p(x) = {nll}: the model is as good as the entropy of the data,
            {nats(LN2)}, allows.</p>""")
    if not words:
        raise Missing("it needs runs with n = 1")
    why = """<p>Nothing failed. Were z used and the bound tight, the prior would be the mixture of
    q(z | x<sup>(0)</sup>) and q(z | x<sup>(1)</sup>), and two Gaussians make up one Gaussian only where they are
    the same. Using z would cost more than it saves.</p>"""
    return "".join([*words, why])


def tell_learning(results: Saved) -> str:
    layers = saved.depths(results.rows)[0]
    widths = saved.widths(results.rows, layers)
    costs = ", ".join(f"{median(results, layers, n, 'recon_per_dim'):.2g} at n = {n:,}" for n in widths)
    return f"""<p>Given z the decoder draws the n dimensions independently, so only z can make them agree. A model
    that ignores z loses n ln 2: {nats(widths[-1] * LN2)} nats at n = {widths[-1]:,}. The larger n, the higher the
    pressure, and the reconstruction cost per dimension, in nats, falls. With {style.depth_name(layers)}:
    {costs}.</p>"""


def tell_costs(results: Saved) -> str:
    words = []
    for layers in saved.depths(results.rows):
        n = largest(results, layers)
        loss, limit, gap = (nats(median(results, layers, n, name)) for name in ("loss", "limit", "gap"))
        reach = "the best that any networks could reach" if layers == 1 else "the limit, approached and never reached,"
        words.append(f"""With {style.depth_name(layers)} and n = {n:,} the loss is {loss} nats; {reach} is {limit},
        so training left {gap}.""")
    return f"""<p>A code has its price. {" ".join(words)} The post's own runs, shown beside, were estimated from
    samples, and may therefore lie a little below the limit.</p>"""


def tell_encoding(results: Saved) -> str:
    words = []
    for layers in saved.depths(results.rows):
        n = largest(results, layers)
        mismatch = nats(median(results, layers, n, "marginal_kl"))
        information = nats(median(results, layers, n, "mutual_information"))
        words.append(f"""With {style.depth_name(layers)} and n = {n:,} the code holds {information} nats of the
        bit's {nats(LN2)}, and leaves q(z) {mismatch} nats away from the prior.""")
    return f"""<p>The encoding distribution q(z), the average of q(z | x) over the data, shows where the price comes
    from: a valley opens between the codes, just where the prior is highest. {" ".join(words)}</p>"""


def tell_decoder(results: Saved) -> str:
    n = plots_codes.legible_width(results)
    shares = [
        f"{median(results, layers, n, 'valid_mass'):.1%} with {style.depth_name(layers)}"
        for layers in saved.depths(results.rows)
        if n in saved.widths(results.rows, layers)
    ]
    return f"""<p>Whoever draws z from the prior will often land in that valley, where the decoder has seen next to
    no code and answers with an average of the two points, in which each dimension goes its own way. At n = {n:,}
    the share of draws that are data points is {" and ".join(shares)}.</p>"""


def tell_two_layers(results: Saved) -> str:
    n = min(largest(results, 1), largest(results, 2))
    if n not in saved.widths(results.rows, 1) or n not in saved.widths(results.rows, 2):
        raise Missing("it needs runs with 1 layer and with 2 layers at one n")
    (loss_1, recon_1), (loss_2, recon_2) = (
        (nats(median(results, layers, n, "loss")), nats(median(results, layers, n, "recon"))) for layers in (1, 2)
    )
    return f"""<p>If z decided x by its sign alone, its posterior would be half a Gaussian, which no Gaussian
    resembles. A second layer, every part of it still Gaussian, can get there: q(z<sub>2</sub> | x) is an average
    over z<sub>1</sub>, and so of any shape. At n = {n:,} the second layer takes the loss from {loss_1} to {loss_2}
    nats, and the reconstruction cost from {recon_1} to {recon_2}.</p>"""


def tell_map(results: Saved) -> str:
    n = largest(results, 2)
    posterior = nats(median(results, 2, n, "posterior_kl"))
    return f"""<p>The post explains it with a model made by hand, whose z<sub>1</sub> is N(&plusmn;a, 1) as
    z<sub>2</sub> is negative or positive. Its posteriors do tend to N(a, 1) and half a Gaussian as a grows. But
    then p(z<sub>2</sub> | z<sub>1</sub>) is half a Gaussian too, and to fit that with a Gaussian costs ever more.
    Runs that come close to ln 2 found another way: z<sub>1</sub> follows z<sub>2</sub> closely along a steep curve,
    so that each almost decides the other and Gaussians are good enough. At n = {n:,} the posteriors of the trained
    model are {posterior} nats away from its own q.</p>"""


def tell_price(results: Saved) -> str:
    words = []
    for layers in saved.depths(results.rows):
        n = largest(results, layers)
        model, posterior = median(results, layers, n, "nll") - LN2, median(results, layers, n, "posterior_kl")
        words.append(f"""With {style.depth_name(layers)} and n = {n:,} the model is {nats(model)} nats worse than
        the data's entropy, and the bound {nats(posterior)} nats worse than the model.""")
    return f"""<p>Reconstruction cost and KL together are the entropy of the data, plus what the model gets wrong,
    plus KL(q(z | x) || p(z | x)), what the Gaussian family gets wrong. {" ".join(words)} The KL alone also splits
    in two at the top layer: the information that the code holds of x, at most ln 2, and the mismatch of q(z) and
    the prior.</p>"""


def tell_transition(results: Saved) -> str:
    collapsed, opened = limits.one_layer([1.0, 2.0]).mean
    return f"""<p>For one layer the best code can be computed for every real n, and since the KL's weight &beta;
    acts as a division of n, for every &beta;. Up to n / &beta; = 1 it is empty (m = {nats(collapsed)}); then it
    opens continuously, as the sixth root of what n / &beta; exceeds 1 by, and at twice that already stands at m =
    {nats(opened)}.</p>"""


STORY = (
    Section("One bit", tell_data, figures.figure_data),
    Section("n = 1: nothing is encoded", tell_collapse, None),
    Section("More dimensions force a code", tell_learning, figures.figure_learning),
    Section("What the code costs", tell_costs, figures.figure_costs),
    Section("The code leaves the prior", tell_encoding, figures.figure_encoding),
    Section("Unpleasant averages", tell_decoder, figures.figure_decoder),
    Section("Two layers", tell_two_layers, figures.figure_truncated),
    Section("Why two layers work", tell_map, figures.figure_map),
    Section("The price, item by item", tell_price, figures.figure_price),
    Section("Where the code opens", tell_transition, figures.figure_transition),
)
