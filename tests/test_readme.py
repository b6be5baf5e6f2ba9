"""The README's Python examples run, learn, and keep the names that its reference lists."""

import re
from pathlib import Path
from typing import Any

import pytest

import vae_bit

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", BLOCKS, ids=[f"example_{i}" for i in range(len(BLOCKS))])
def test_example_runs_and_what_it_trains_learns(source, capsys):
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
