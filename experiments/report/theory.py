"""What the report says of arguments that need no training: the post's proof, and models made by hand."""

from experiments.figures import by_hand, proof
from experiments.figures.selection import Saved
from experiments.figures.transition import half_distance, trained_codes
from experiments.report.text import nats
from vae_bit import handbuilt, limits
from vae_bit.limits import LN2


def tell_proof(results: Saved) -> str:
    least = ", ".join(f"{nats(float(limits.prior_mismatch(m).kl))} at m = {m}" for m in proof.MEANS)
    return f"""<p>Were z used, the bound tight and the model right, the prior would be the average of the two codes.
    Two Gaussians, N(-m, s&sup2;) and N(m, s&sup2;), never get there. With the best s for each m their average q(z) is
    still at least {least} nats away, in KL(q(z) || p(z)). It is 0 only at m = 0, where z says nothing, and rises with
    m, at first so slowly, as m<sup>8</sup>, that a picture does not show it.{trained_mismatch(results)}</p>"""


def trained_mismatch(results: Saved) -> str:
    """How much further than they must the codes of one layer that lie furthest apart are from the prior."""
    codes = trained_codes(results)
    if not codes:
        return ""
    row, q = max(codes, key=lambda code: half_distance(code[1]))
    m = half_distance(q)
    return f""" The median run of n = {row["n"]:,} and &beta; = {row["beta"]:g} has m = {nats(m)} and s =
    {nats(q.std.mean())}: it is {nats(row["marginal_kl"])} nats away, where {nats(float(limits.prior_mismatch(m).kl))}
    would do for that m."""


def tell_by_hand(results: Saved) -> str:
    return f"{tell_post_model(results)}{tell_steep_maps()}{tell_mixture(results)}"


def tell_post_model(results: Saved) -> str:
    """The least loss of the post's model by hand against one layer's limit and trained two layers."""
    n, best, one = by_hand.WIDTH, by_hand.hand_loss(), limits.one_layer(by_hand.WIDTH).loss
    trained = by_hand.trained_two_layers(results)
    reach = "" if trained is None else f"; two layers that were trained have {nats(trained)}"
    explains = f"""So unit noise gains {nats(float(one) - best.best_loss)} of the {nats(float(one) - LN2)} nats that
    there are to gain over one layer, and cannot be what takes two layers to ln 2."""
    return f"""<p>The post's explanation, N(&plusmn;a, 1) for z<sub>1</sub> as z<sub>2</sub> is negative or positive,
    can be computed to the end. With its hard decoder the loss is infinite, as every Gaussian q puts some mass on the
    wrong side. With the logit {by_hand.SLOPE:g} z<sub>1</sub> in every dimension and the best Gaussian q's it is at
    best {nats(best.best_loss)} nats, at n = {n:,} and a = {best.best_a:.2g}. The limit of one layer is
    {nats(float(one))}, that of two ln 2 = {nats(LN2)}{reach}. {explains}</p>"""


def tell_steep_maps() -> str:
    """How near ln 2 the steep maps come as their noise falls, and what is left of each."""
    n, low, high = by_hand.WIDTH, by_hand.NOISE.min(), by_hand.NOISE.max()
    left = ", ".join(f"{nats(by_hand.steep_excess(a).min())} with a = {a}" for a in by_hand.STEEP)
    return f"""<p>What does work can be written down too: carry the prior of z<sub>2</sub> onto the same two Gaussians
    along a steep curve, with noise s far below their width, and let q follow the curve back. As s falls from
    {high:g} to {low:g} the loss comes down to ln 2 and a rest, at least {left}, at n = {n:,}. The rest is what reading
    the bit from overlapping codes costs, and what noise costs: with a large and s small it is as small as one likes,
    and never 0.</p>"""


def tell_mixture(results: Saved) -> str:
    """A plain mixture's loss on the same data."""
    n = int(results.rows["n"].max())
    fitted = handbuilt.fit_mixture(n)
    return f"""<p>And for data like this there is a simpler tool. A mixture of two vectors of Bernoulli probabilities,
    fitted by EM from random ones, has the loss {nats(fitted.loss)} at n = {n:,}, which is ln 2 to rounding: its
    likelihood is exact, no bound stands between, and nothing can collapse.</p>"""
