"""Packages that extend this one: the example, installed from its wheel, and packages that are broken."""

import json
import os
import subprocess
import sys
import zipfile
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from carp_eval import diagnosis, plugins
from carp_eval.cards import kinds, loading, methods
from carp_eval.commands.app import main
from carp_eval.data import opening, table
from carp_eval.errors import PluginError, UnknownNameError

EXAMPLE = Path(__file__).parents[1] / "examples" / "carp-eval-example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder of installed packages that holds the example's wheel, unpacked as an installer does it."""
    pytest.importorskip("hatchling", reason="hatchling is not installed here")
    root = tmp_path_factory.mktemp("packages")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(root / "wheel")],
        cwd=EXAMPLE,
        check=True,
        capture_output=True,
    )
    (wheel,) = (root / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(root / "site")
    return root / "site"


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Path:
    """An installed package whose entry points lead nowhere, or to something else, or are two of a name."""
    for name, points in {
        "broken": {
            "carp_eval.protocols": "lost = nowhere:PLUGIN\ntwice = json:dumps\nknn = nowhere:PLUGIN",
            "carp_eval.methods": "lost = broken_package:PLUGIN\nother = json:dumps",
            "carp_eval.datasets": "lost = broken_package:PLUGIN",
        },
        "second": {"carp_eval.protocols": "twice = json:loads"},
    }.items():
        info = tmp_path / "site" / f"{name}_pack-2.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-pack\nVersion: 2.0\n")
        written = "\n".join(f"[{group}]\n{lines}\n" for group, lines in points.items())
        (info / "entry_points.txt").write_text(written)
    (tmp_path / "site" / "broken_package.py").write_text("raise RuntimeError('made for another release')\n")
    return tmp_path / "site"


@pytest.fixture
def beside(monkeypatch):
    """Put a folder of packages on this process's path, and find their entry points anew."""

    def put(folder):
        monkeypatch.syspath_prepend(str(folder))
        invalidate_caches()
        plugins.found.cache_clear()

    yield put
    for name in [name for name in sys.modules if name.startswith(("carp_eval_example", "broken_package"))]:
        del sys.modules[name]
    monkeypatch.undo()
    plugins.found.cache_clear()


HELP = """
import sys
from carp_eval.commands.app import main

for command in ("eval", "--help"), ("eval", "ncm", "--help"):
    sys.argv = ["carp", *command]
    print("##")
    try:
        main()
    except SystemExit as stopped:
        print("exit", stopped.code or 0)
    if len(command) == 2:
        print("torch", "torch" in sys.modules)
"""


def test_help_tells_of_the_example_without_importing_torch(installed, tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", HELP],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(installed), str(EXAMPLE.parents[1])]),
            "CARP_HOME": str(tmp_path / "home"),
            "COLUMNS": "160",
            "NO_COLOR": "1",
            "TERM": "dumb",
        },
    )
    assert told.returncode == 0, told.stderr
    help_of_eval, help_of_ncm = told.stdout.split("##")[1:]
    assert "Classify test images by the nearest mean of a class in the bank." in help_of_eval
    assert "torch False" in help_of_eval
    for option in ("--normalise", "--variant", "--device", "--dry-run", "example", "exit 0"):
        assert option in help_of_ncm


def test_the_example_package_adds_a_protocol_a_method_and_a_data_set(
    installed, beside, tmp_path, monkeypatch, capsys
):
    beside(installed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")

    def carp(*arguments):
        code, out, err = run(monkeypatch, capsys, *arguments)
        assert code == 0, err
        return out + err

    once = ("--set", "schedule.epochs=1", "--set", "schedule.knn_epochs=1", "--device=cpu")
    trained = carp("train", "predict-stripes", *once)
    assert "a predictor of 32" in trained
    assert "spread" in trained
    assert "20-NN student" in trained
    assert "48 queries" in carp("eval", "ncm", "--plain", "--no-leak-check")
    (folder,) = (tmp_path / "runs").iterdir()
    (record,) = (folder / "results").glob("ncm@example-stripes-*.json")
    scored = json.loads(record.read_text())
    assert scored["card"]["normalise"] is False
    assert scored["counts"] == {"bank": 96, "queries": 48, "classes": 3}
    assert "wrote stripes.parquet" in carp("extract", "-d", "stripes", "--to", "stripes.parquet")
    features = pq.read_table(tmp_path / "stripes.parquet")
    assert nearest_mean(features) == pytest.approx(scored["scores"][0]["value"])
    assert "drawn when they are asked for" in carp("data", "list", "stripes", "--json")
    assert "predict-stripes" in carp("train", "--list")
    assert carp("doctor").count("from carp-eval-example 0.1.0") == 3


def nearest_mean(table):
    """Return top-1 in percent, by loops over the classes."""
    features = np.stack(table["features"].to_numpy()).astype(np.float64)
    labels, splits = table["label"].to_numpy(), np.array(table["split"].to_pylist())
    train, test = splits == "train", splits == "test"
    means = [features[train & (labels == label)].mean(axis=0) for label in range(3)]
    right = [
        int(np.argmin([((row - mean) ** 2).sum() for mean in means])) == label
        for row, label in zip(features[test], labels[test])
    ]
    return 100 * np.mean(right)


def test_what_a_package_brings_is_found_by_name(installed, beside):
    beside(installed)
    assert opening.open_images("stripes", "test").class_names == ("across", "down", "aslant")
    assert table.row_of("stripes").num_classes == 3
    assert loading.recipe("predict-stripes").predictor.hidden_dim == 32
    assert loading.protocol_named("ncm@example", {"normalise": False}).normalise is False
    with pytest.raises(UnknownNameError, match="Did you mean stripes"):
        opening.open_images("stripe", "test")
    with pytest.raises(UnknownNameError, match="Did you mean predict-stripes"):
        loading.recipe("predict-stripe")
    with pytest.raises(UnknownNameError, match="Did you mean example"):
        loading.protocol_card("ncm", "exampel")


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (
            lambda: kinds.plugin("lost"),
            "lost comes from the package broken-pack 2.0, whose nowhere:PLUGIN cannot",
        ),
        (lambda: methods.plugin("lost"), r"RuntimeError: made for another release\)\. Update that package"),
        (
            lambda: methods.plugin("other"),
            "must be a carp_eval.cards.methods.MethodPlugin, and json:dumps is a",
        ),
        (
            lambda: kinds.plugin("twice"),
            "comes from broken-pack 2.0 and second-pack 2.0: uninstall all but one",
        ),
        (lambda: opening.open_images("lost", "train"), "broken_package:PLUGIN cannot be imported"),
        (lambda: loading.protocol_card("lost", "a"), "nowhere:PLUGIN cannot be imported"),
    ],
)
def test_a_package_that_does_not_work_is_told_of_by_name(broken, beside, ask, expected):
    beside(broken)
    with pytest.raises(PluginError, match=expected):
        ask()


def test_a_package_that_does_not_work_stops_nobody_else(broken, beside):
    beside(broken)
    assert loading.protocol_card("knn", "dino").kind == "knn"
    assert loading.recipe("digits").method == "carp"
    assert table.row_of("digits").num_classes == 10
    with pytest.raises(UnknownNameError):
        opening.open_images("digts", "test")


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["carp", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    return stopped.value.code or 0, told.out, told.err


def test_the_command_line_lives_with_a_package_that_does_not_work(
    broken, beside, monkeypatch, capsys, tmp_path
):
    beside(broken)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    code, out, _ = run(monkeypatch, capsys, "eval", "--help")
    assert code == 0
    assert "Does not work: its package cannot be imported" in out
    code, out, err = run(monkeypatch, capsys, "eval", "lost", "-m", "random:digits")
    assert code == 2
    assert "broken-pack 2.0" in err
    code, out, err = run(monkeypatch, capsys, "data", "list")
    assert code == 0
    assert "cifar10" in out
    assert "broken_package:PLUGIN cannot be imported" in err
    code, out, err = run(monkeypatch, capsys, "train", "--list")
    assert code == 0
    assert "digits" in out
    assert "broken-pack 2.0" in err


def test_doctor_says_what_is_wrong_with_each(broken, beside, monkeypatch, tmp_path):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    beside(broken)
    found = {(finding.part, finding.found): finding.problem for finding in diagnosis.examine()}
    assert "Update that package" in found["plugin lost", "protocol, from broken-pack 2.0"]
    assert "Update that package" in found["plugin lost", "data set, from broken-pack 2.0"]
    assert (
        "uninstall all but one" in found["plugin twice", "protocol, from broken-pack 2.0 and second-pack 2.0"]
    )
    assert found["plugin knn", "protocol, from broken-pack 2.0"]
