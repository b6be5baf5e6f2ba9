"""What the report says of the repairs of the bound: other posteriors, priors and decoders, and more layers."""

import numpy as np

from experiments.figures import families, one_knob, premises, selection
from experiments.figures.families import BEFORE, Family
from experiments.figures.repairs import above, require
from experiments.figures.selection import Saved
from experiments.report.text import nats
from vae_bit import limits
from vae_bit.limits import LN2
from vae_bit.store.table import Table


def tell_repairs(results: Saved) -> str:
    require(results)
    rows = families.at_one_beta(results)
    lines = "".join(f"<li>{line(rows, family)}</li>" for family in families.there(rows))
    return f"""<p>The bound can be loose in three places: q(z | x), the prior, and a decoder that needs z for all that
    the dimensions share. Each can be repaired, by a richer family or by a second layer. How far the loss stays above
    {least(results)} shows what that buys. At the largest n of each, the median over the seeds:</p>
    <ul>{lines}</ul>{tell_critical(rows)}"""


def least(results: Saved) -> str:
    """Below what no family comes."""
    return f"ln 2 = {nats(LN2)}" if premises.beta(results) == 1.0 else "min(n<sub>eff</sub>, &beta;) ln 2"


def line(rows: Table, family: Family) -> str:
    """One family at its largest n."""
    own = families.own(rows, family)
    own = selection.of(own, n=own["n"].max())
    n, limit = own["n"][0], float(own["limit"][0])
    bound = np.min(own["loss"] - above(own))
    reach = f"limit {nats(limit - bound)}" if np.isfinite(limit) else "limit unknown"
    return f"{families.words(family, BEFORE)}, n = {n:,}: {nats(float(np.median(above(own))))} nats above; {reach}"


def tell_critical(rows: Table) -> str:
    """What codes hold where n = beta, at which one family is indifferent to what another must avoid."""
    held = [words for family in families.there(rows) if (words := critical(rows, family))]
    if not held:
        return ""
    return f"""<p>At n = &beta; a code saves just what it costs at least. Gaussians and finite mixtures then hold
    nothing at the optimum, as q(z) would leave the prior; a flow, a learned prior or a second layer can hold any part
    of the bit at no loss. The information that the codes hold, from the least of the seeds to the most:</p>
    <ul>{"".join(f"<li>{words}</li>" for words in held)}</ul>"""


def critical(rows: Table, family: Family) -> str:
    """The range of one family's information at n = beta, if it has such runs and its decoder sees z alone."""
    own = families.own(rows, family)
    own = selection.of(own, n=own["beta"][0])
    if family.word_dropout < 1 or not own["n"].size:
        return ""
    low, high = (nats(float(end(own["mutual_information"]))) for end in (np.min, np.max))
    return f"{families.words(family, BEFORE)}: {low} to {high} nats"


def tell_rate_distortion(results: Saved) -> str:
    return f"""<p>The KL is what a code costs, its rate; the reconstruction cost for each dimension that needs z is what
    the code leaves unsaid, its distortion. As a code must pay at least for what it says, the two add up to ln 2 =
    {nats(LN2)} or more, whatever n and &beta; are. Each family has one curve of best codes, and n<sub>eff</sub> /
    &beta; chooses the point on it: where its slope is -&beta; / n<sub>eff</sub>. One layer of Gaussians has
    distortion R(t) at rate ln(1 + t) / 2, t the squared distance of the codes from the middle in their own widths;
    flows, learned priors and second layers can come as near to the line of ln 2 as one likes.</p>"""


def tell_one_knob(results: Saved) -> str:
    rows = one_knob.require(results)
    pressure, information = one_knob.medians(rows, "information")
    loss = one_knob.medians(rows, "loss")[1] - one_knob.exact(pressure, "loss")
    off = np.abs(information - one_knob.exact(pressure, "information"))
    worst = np.argmax(off)
    return f"""<p>A larger n, a smaller &beta; and more word dropout r press on the code in the same way: all that
    counts is n<sub>eff</sub> / &beta;, n<sub>eff</sub> = 1 + (n - 1) r, since a decoder that sees {BEFORE} needs z only
    where that is blank. So {pressure.size} settings of one layer, with n<sub>eff</sub> / &beta; from
    {pressure.min():.3g} to {pressure.max():,.5g}, share one exact curve. What the median runs hold of the bit differs
    from it by at most {off[worst]:.2g} bits, at {pressure[worst]:,.5g}, where the best code holds
    {nats(float(limits.information(1, pressure[worst])) / LN2)} bits; their loss / &beta; exceeds it by at most
    {nats(float(loss.max()))} nats.</p>"""
