"""The README's Python examples run, learn, and its lists hold the names that there are."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import vae_bit
from vae_bit.store.table import COLUMNS, KEYS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", BLOCKS, ids=[f"example_{i}" for i in range(len(BLOCKS))])
def test_example_runs_and_what_it_trains_learns(source, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "README.md", "exec"), names)
    if "history" in names:
        assert names["history"][-1] < 0.6 * names["history"][0]
        assert re.search(r"\d\.\d{3}", capsys.readouterr().out)


def test_reference_lists_every_exported_name_and_no_other():
    section = README.split("## In your own code")[1].split("\n### ")[0]
    rows = "\n".join(line.rsplit("|", 2)[0] for line in section.splitlines() if line.startswith("| `"))
    listed = re.findall(r"`(\w+)[(`]", rows)
    assert sorted(listed) == sorted(vae_bit.__all__)


@pytest.mark.parametrize("package", ["vae_bit", "experiments"])
def test_layout_names_every_file_and_no_other(package):
    layout = README.split("## Layout\n")[1].split("```")[1]
    lines = re.search(rf"^{package}/ .*\n((?:  .*\n)+)", layout, re.MULTILINE)
    assert lines
    listed = [line.split()[0] for line in lines[1].splitlines()]
    shown = [f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / package).glob("[!_.]*")]
    assert sorted(listed) == sorted({*shown} - {"py.typed"})


def test_commands_are_those_that_the_tests_run():
    line = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert f"```bash\n{line}\n```" in README


def test_every_flag_of_the_sweep_is_listed():
    calls = ast.walk(ast.parse((ROOT / "experiments/sweep.py").read_text()))
    calls = [node for node in calls if isinstance(node, ast.Call) and ast.unparse(node.func) == "define"]
    defined = [ast.literal_eval(call.args[1]) for call in calls]
    table = README.split("| flag | meaning | default |")[1].split("\n\n")[0]
    cells = "\n".join(line.split("|")[1] for line in table.splitlines()[2:])
    assert sorted(re.findall(r"`--(\w+)`", cells)) == sorted(defined)


def test_every_column_of_the_table_is_told():
    section = README.split("- `results.csv`, a row per run.")[1].split("- `curves.npz`")[0]
    assert f"`{', '.join(KEYS)}`" in section
    cells = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("  | `"))
    assert re.findall(r"`(\w+)`", cells) == [name for name in COLUMNS if name not in KEYS] + ["kl_1"]
