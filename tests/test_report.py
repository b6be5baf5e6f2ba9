"""The report is one file, its numbers are the run's, and it says what it leaves out."""

import base64
import inspect
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from sweeps import alone

from experiments.figures import selection
from experiments.report import page, repairs, story, text, theory
from vae_bit.store import files, results, table

ABOUT = {"argv": ["sweep", "--n=2,5", "--note=<b>"], "versions": {"numpy": np.__version__}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny, trained):
    out = tmp_path_factory.mktemp("report")
    results.write(out, alone(tiny["default"]), trained, ABOUT)
    return out


@pytest.fixture(scope="module")
def document(folder, tiny):
    return page.page(selection.load(folder, tiny["default"].model))


class Outline(HTMLParser):
    """Text without markup, the cells of tables, what is loaded, and tags left open."""

    def __init__(self, document):
        super().__init__()
        self.text, self.sources, self.open = [], [], []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_one_file_that_loads_nothing(document):
    outline = Outline(document)
    assert outline.open == []
    assert len(outline.sources) == 14
    for source in outline.sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64" and b"<svg" in base64.b64decode(data)
    assert "<script" not in document and "url(" not in document and "@import" not in document
    assert "&lt;b&gt;" in document and "<b>" not in document
    assert "<!--" not in document.replace("<!DOCTYPE", "")


def test_the_table_holds_the_medians_of_every_setting(folder, document, tiny):
    """Of each beta and learning rate that did not diverge; the post's runs had beta = 1."""
    rows = selection.load(folder, tiny["default"].model).every
    lines = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", document)][1:]
    assert [line[:3] for line in lines] == [[layers, n, beta] for layers in "12" for n in "25" for beta in ("0.5", "2")]
    for line in lines:
        own = selection.of(rows, layers=int(line[0]), n=int(line[1]), beta=float(line[2]))
        assert line[3] == str(own["n"].size) == "2"
        assert float(line[4]) == pytest.approx(np.median(own["loss"]), abs=6e-5)
        assert float(line[8]) == pytest.approx(np.median(own["recon_per_dim"]), abs=6e-8)
    assert {line[-1] for line in lines} == {"-"}


def test_every_number_follows_the_results(folder, document, tmp_path, tiny):
    """Other results, other numbers: each figure of the table that the story tells is read from it."""
    out = shutil.copytree(folder, tmp_path / "other")
    rows = results.load_table(out)
    told = "loss recon recon_per_dim limit gap nll posterior_kl marginal_kl mutual_information"
    for k, name in enumerate(told.split()):
        rows[name] = np.full(rows["n"].size, 0.111 * (k + 1))
    rows["valid_mass"] = np.full(rows["n"].size, 0.123)
    (out / "results.csv").write_text(table.to_csv(rows))
    files.write_config(out, files.read_config(out) | {"files": {}})
    other = selection.load(out, tiny["default"].model)
    told = " ".join(section.tell(other) for chapter in story.STORY for section in chapter.sections)
    # -ln p(x) is told as its distance from ln 2 = 0.693 too
    for number in ("0.111", "0.222", "0.33", "0.444", "0.555", "0.666", "-0.027", "0.777", "0.888", "0.999", "12.3%"):
        assert number in told, number
    assert "12.3%" not in document


def test_no_number_is_typed_in():
    """Prose holds numbers of one digit at most: the names of the two points, of layers and of powers."""
    for module in (text, theory, repairs, story, page):
        prose = re.findall(r'f?"""(.*?)"""', inspect.getsource(module), re.S)
        prose = [re.sub(r"\{[^{}]*\}", "", part) for part in prose]
        assert not any(re.search(r"\d\.\d|\d\d", part) for part in prose)


def test_what_is_missing_is_said(tmp_path, tiny, trained, monkeypatch):
    monkeypatch.setattr(page, "picture", lambda figure: "<img src='drawn'>")
    results.write(tmp_path, alone(tiny["default"]), trained[:1], ABOUT)
    document = page.page(selection.load(tmp_path, tiny["default"].model))
    assert "Two layers (needs runs with 1 layer and with 2 layers at one n)" in document
    assert "Why two layers work (needs runs with 2 layers)" in document
    assert len(Outline(document).sources) == 11


def test_numbers_are_readable():
    shown = [text.nats(value) for value in (0.69315, 0.0, 1.2e-9, -1.2e-9, 0.00123, 6.2e-5, 12.3456)]
    assert shown == ["0.693", "0.000", "0.000", "0.000", "0.0012", "0.000062", "12.346"]


def test_the_command(folder):
    line = [sys.executable, "-m", "experiments.report", f"--run={folder}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'report.html'}\n"
    assert "<!-- " not in (folder / "report.html").read_text()


def test_the_command_refuses_a_foreign_folder(tmp_path):
    line = [sys.executable, "-m", "experiments.report", f"--run={tmp_path / 'none'}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: --run=")
