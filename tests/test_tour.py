"""The notebook that follows the post: what its cells compute, run with fewer seeds and steps than it asks for."""

import json

import nbformat
import numpy as np
import pytest
from commands import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "experiments" / "tour.ipynb"
SIZE = "SEEDS, STEPS = 4, 2000"
LN2 = np.log(2.0)
TOLD = """
import json
tables = {"runs": runs.rows, "betas": betas.rows, "comparison": comparison}
told = {name: {key: column.tolist() for key, column in table.items()} for name, table in tables.items()}
print(json.dumps(told | {"humps": humps, "valid": valid, "bound": [recon + beta * kl, vb.limit(1, 10, beta).item()]}))
"""


@pytest.fixture(scope="module")
def saved():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(saved, tmp_path_factory):
    """The notebook with its outputs, and what its last cell, which is ours, tells of its names."""
    folder = tmp_path_factory.mktemp("tour")
    notebook = nbformat.from_dict(saved)
    (top,) = [cell for cell in notebook.cells if cell.source.strip() == SIZE]
    top.source = "SEEDS, STEPS = 2, 600"
    notebook.cells.append(nbformat.v4.new_code_cell(TOLD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("TMPDIR", str(folder))
        NotebookClient(notebook, timeout=240).execute(cwd=str(folder))
    told = json.loads(notebook.cells[-1].outputs[0].text)
    return notebook, {key: arrays(value) if isinstance(value, dict) else value for key, value in told.items()}


def arrays(table):
    return {name: np.array(column) for name, column in table.items()}


def test_it_is_saved_without_outputs(saved):
    nbformat.validate(saved)
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert saved.metadata.kernelspec.name == "python3" and set(saved.metadata) == {"kernelspec", "language_info"}
    assert set(saved.metadata.language_info) == {"name"}


def test_at_one_dimension_no_code_and_at_ten_two_humps(executed):
    rows, humps = executed[1]["runs"], executed[1]["humps"]
    one = rows["n"] == 1
    assert np.all(rows["mutual_information"][one] < 0.05) and np.all(rows["mutual_information"][~one] > 0.4)
    np.testing.assert_allclose(rows["loss"][one], LN2, atol=2e-3)
    assert (humps["1"], humps["10"]) == (1, 2)


def test_one_layer_ends_at_its_limit_and_two_come_close_to_the_entropy(executed):
    rows = executed[1]["runs"]
    one, wide = rows["layers"] == 1, rows["n"] > 1
    assert np.all(rows["gap"] > 0.0) and np.all(rows["gap"][one] < 0.02)
    assert np.all(rows["loss"][one & wide] > 0.9) and np.all(rows["loss"][~one] < 0.8)
    assert np.all(rows["marginal_kl"][one & wide] > 0.1) and np.all(rows["marginal_kl"][~one] < 0.05)


def test_samples_are_data_points_as_often_as_the_exact_mass_says(executed):
    (one, one_sampled), (two, two_sampled) = (executed[1]["valid"][layers] for layers in "12")
    assert one < 0.9 < two
    for exact, sampled in ((one, one_sampled), (two, two_sampled)):
        assert sampled == pytest.approx(exact, abs=5.0 * np.sqrt(exact * (1.0 - exact) / 10_000))


def test_a_code_appears_where_n_is_above_beta(executed):
    rows = executed[1]["betas"]
    opens = rows["n"] > rows["beta"]
    assert np.all(rows["mutual_information"][opens] > 0.4) and np.all(rows["mutual_information"][~opens] < 0.05)
    one = rows["n"] == 1
    np.testing.assert_allclose(rows["nll"][one], LN2, atol=1e-3)
    assert np.all(rows["posterior_kl"][one & opens] > 0.05) and np.all(rows["posterior_kl"][one & ~opens] < 1e-3)


def test_ones_own_objective_stands_beside_the_elbo(executed):
    table, (bound, limit) = executed[1]["comparison"], executed[1]["bound"]
    assert table["objective"].tolist() == ["elbo", "squared_kl"]
    (elbo_gap, own_gap), (elbo_kl, own_kl) = table["gap"], table["kl"]
    assert 0.0 < elbo_gap < 0.02 < own_gap and elbo_kl > own_kl > 0.5
    assert 0.0 < bound - limit < 0.02  # the minimiser of recon + KL^2 is that of recon + beta KL, beta = 2 KL


def test_every_picture_is_shown(executed):
    cells = [cell for cell in executed[0].cells if cell.cell_type == "code"]
    drawn = [cell for cell in cells if "subplots" in cell.source]
    shown = [any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in drawn]
    assert len(shown) == 5 and all(shown)


def test_nothing_is_warned_of(executed):
    outputs = [output for cell in executed[0].cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
