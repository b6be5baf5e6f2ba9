"""What a sweep gives back: its table, and every trained run as exact functions in float64."""

import html
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from vae_bit import exact, models, padding, settings, summary
from vae_bit.distributions import Distribution
from vae_bit.exact import Densities, Evaluation, ScalarVAE
from vae_bit.marginals import Grids
from vae_bit.models import Build, Model, Params
from vae_bit.programs import Labels
from vae_bit.store import results
from vae_bit.store.results import Contents
from vae_bit.store.table import KEYS, Table

DIMENSIONS = 32  # of x whose probability is found at a time: each holds numbers for every node of an inner grid


class TrainedModel(NamedTuple):
    """One trained run: its row of the table, what builds its model, its parameters. Everything it gives is numpy."""

    row: dict[str, Any]
    build: Build
    params: Params

    @property
    def model(self) -> Model:
        """Its functions, for n dimensions."""
        return self.build(self.row["layers"], self.row["n"])

    def encode(self) -> Distribution:
        """q(z_1 | x) at 0^n and 1^n: [2]."""
        return self._exactly(lambda params: models.encode(self.model, params, self.row["n"]))

    def decode(self, z: np.ndarray) -> np.ndarray:
        """The logits of p(x_i = 1 | z_1), whatever the bits before are: z_1 [K] -> [n, K]."""
        nodes = np.asarray(z, np.float64)
        return self._exactly(lambda params: models.marginal_logits(self.model, params, jnp.asarray(nodes)))

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """Ancestral samples x: [n, count], 0 or 1."""
        key = jax.random.key(seed)
        return self._exactly(lambda params: models.sample(self.model, params, self.row["n"], key, count))

    def densities(self, *grids: np.ndarray) -> Densities:
        """The densities of every layer's latent on a grid [K_l] each, z_1 first; see `exact.Densities`."""
        nodes = tuple(np.asarray(z, np.float64) for z in grids)
        return self._exactly(lambda params: _densities(self.model, params, self.row["n"], nodes))

    def top_density(self, z: np.ndarray) -> np.ndarray:
        """q(z_L | x) of 0^n and 1^n at z [K]: [2, K].

        One program serves every n where nothing of the encoder belongs to the data's dimensions, as in the presets.
        """
        nodes, n = np.asarray(z, np.float64), self.row["n"]
        narrow = self.build(self.row["layers"], 1)
        cut = padding.unpad(self.params, padding.shapes(narrow.init, 1))
        codes = models.encode(narrow, cut, n), models.encode(self.model, self.params, n)
        same = jax.tree.map(np.array_equal, *codes)
        model, params = (narrow, cut) if jax.tree.all(same) else (self.model, self.params)
        return self._replace(params=params)._exactly(lambda params: _top_density(model, params, n, nodes))

    def probability(self, z: np.ndarray) -> np.ndarray:
        """p(x_i = 1 | z_L) at z [K]: [n, K]."""
        nodes = np.asarray(z, np.float64)
        return self._exactly(lambda params: _probability(self.model, params, self.row["n"], nodes))

    def evaluate(self, beta: float | None = None) -> Evaluation:
        """The exact figures, at the run's own beta unless given."""
        weight = float(self.row["beta"] if beta is None else beta)
        return exact.refine(
            lambda grids: self._exactly(
                lambda p: _evaluate(self.model, grids, p, self.row["n"], self.row["word_dropout"], weight)
            )
        )

    def scalar_vae(self) -> ScalarVAE:
        """The model as functions for `exact`; call them where JAX has float64."""
        with settings.fixed(x64=True):
            return models.scalar_vae(self.model, self._double(), self.row["n"], self.row["word_dropout"])

    def __repr__(self) -> str:
        return f"TrainedModel({', '.join(f'{name}={self.row[name]}' for name in KEYS)})"

    def _exactly(self, function: Any) -> Any:
        with settings.fixed(x64=True):
            return jax.tree.map(np.asarray, function(self._double()))

    def _double(self) -> Params:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), self.params)


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(model: Model, grids: Grids, params: Params, n: int, word_dropout: float, beta: float) -> Evaluation:
    return exact.evaluate_on(grids, models.scalar_vae(model, params, n, word_dropout), beta)


@partial(jax.jit, static_argnums=0)
def _densities(model: Model, params: Params, n: int, grids: tuple[Array, ...]) -> Densities:
    return exact.densities(models.scalar_vae(model, params, n, 0.0), grids)


@partial(jax.jit, static_argnums=0)
def _top_density(model: Model, params: Params, n: int, z: Array) -> Array:
    return _densities(model, params, n, (z,) * model.layers).q[-1]


@partial(jax.jit, static_argnums=0)
def _probability(model: Model, params: Params, n: int, z: Array) -> Array:
    chain = models.scalar_vae(model, params, n, 0.0)
    width = chain.mask.size

    def block(i: Array) -> Array:
        return exact.expectation(chain, lambda z_1: jax.nn.sigmoid(chain.logits(z_1)[i]), z)

    blocks = np.resize(np.arange(width), (-(-width // DIMENSIONS), min(DIMENSIONS, width)))
    return jax.lax.map(block, blocks).reshape(-1, z.size)[:width]


class Results:
    """A sweep's outcome.

    `rows` is the table, a dict of columns (pandas.DataFrame takes it as it is), a row a run; `curves` holds the sampled
    loss, recon and kl [R, T] at `step` [T], and `history` exact figures [R, H], if they were asked for.
    """

    def __init__(self, contents: Contents, builds: Mapping[Labels, Build], out: Path | None = None):
        self.rows, self.curves, self.history = contents.rows, contents.curves, contents.history
        self.out = out
        self._params, self._builds = contents.params, builds

    def summary(self) -> Table:
        """A row for each setting: medians over the seeds that did not diverge, and the range of their loss."""
        return summary.medians(self.rows)

    def table(self, width: int = 170) -> str:
        """The summary as text."""
        console = Console(width=width)
        with console.capture() as capture:
            console.print(summary.rendered(self.summary()))
        return capture.get()

    def load(self, **keys: Any) -> TrainedModel:
        """The first run whose columns have the given values, as in load(layers=2, n=5, seed=3).

        ValueError names a column that there is not, and KeyError says that no run is so.
        """
        if odd := keys.keys() - self.rows.keys():
            raise ValueError(f"{min(odd)}: no column of the table, expected some of {', '.join(self.rows)}")
        own = np.logical_and.reduce([self.rows[name] == value for name, value in keys.items()], initial=True)
        index = np.flatnonzero(np.broadcast_to(own, self.rows["n"].shape))
        if not index.size:
            raise KeyError(f"no run with {', '.join(f'{name}={value}' for name, value in keys.items())}")
        return self._model(int(index[0]))

    def _model(self, index: int) -> TrainedModel:
        row = {name: column[index].item() for name, column in self.rows.items()}
        return TrainedModel(row, *results.trained_model(self.rows, self._params, index, self._builds))

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre style='white-space: pre; line-height: 1.2'>{html.escape(self.table(240))}</pre>"
