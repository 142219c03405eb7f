"""The library's public names: which they are, what they take, and that they do what their words say."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import carp_eval
from carp_eval import library
from carp_eval.errors import BankError, CarpError, DataError, UnknownNameError, UsageError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model():
    return carp_eval.load("random:digits")


def photographs(root: Path, count: int = 6) -> list[Path]:
    """Write photographs of several sizes, some beside folders and some in them, and a file that is none."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        place = root / ("", "summer", "summer/beach")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
        paths.append(place / f"{number}.png")
    (root / "notes.txt").write_text("not a photograph")
    return paths


def test_the_public_names_and_what_they_take_stay():
    assert carp_eval.__all__ == ["Bank", "CarpError", "Model", "Result", "evaluate", "extract", "load"]
    assert set(carp_eval.__all__) == set(carp_eval._HOMES)
    assert set(carp_eval.__all__) <= set(dir(carp_eval))
    parameters = {
        name: list(inspect.signature(getattr(carp_eval, name)).parameters)
        for name in ("load", "extract", "evaluate")
    }
    assert parameters == {
        "load": ["model", "branch", "layer"],
        "extract": [
            "model",
            "images",
            "split",
            "preprocessing",
            "dtype",
            "precision",
            "views",
            "batch_size",
            "num_workers",
            "device",
            "data_root",
            "bank_home",
            "skip_bad",
            "progress",
        ],
        "evaluate": [
            "model",
            "protocol",
            "dataset",
            "queries",
            "device",
            "data_root",
            "skip_bad",
            "output",
            "seed",
            "changes",
        ],
    }
    bank = {
        name: list(inspect.signature(getattr(carp_eval.Bank, name)).parameters)
        for name in ("open", "search", "write")
    }
    assert bank == {
        "open": ["path"],
        "search": ["self", "queries", "k", "include_self", "memory"],
        "write": ["self", "path"],
    }
    for name in carp_eval.__all__:
        assert inspect.getdoc(getattr(carp_eval, name)), name
    with pytest.raises(AttributeError, match="'extrakt'"):
        carp_eval.extrakt  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, carp_eval\n"
        "print(sorted({'torch', 'numpy', 'faiss', 'pydantic', 'carp_eval.library'} & set(sys.modules)))\n"
        "print(sorted(set(carp_eval.__all__) - set(dir(carp_eval))))\n"
        "assert issubclass(carp_eval.CarpError, Exception)\n"
        "print('torch' in sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert told.stdout.split("\n")[:3] == ["[]", "[]", "False"], told.stderr


def test_a_folder_of_photographs_becomes_a_bank_and_files_a_tensor(model, tmp_path):
    paths = photographs(tmp_path / "photos")
    told = []
    bank = carp_eval.extract(
        model, tmp_path / "photos", num_workers=0, dtype="float32", progress=lambda *done: told.append(done)
    )
    assert bank.keys == [
        "0.png",
        "3.png",
        "summer/1.png",
        "summer/4.png",
        "summer/beach/2.png",
        "summer/beach/5.png",
    ]
    assert bank.labels.tolist() == [-1] * 6
    assert told[-1] == (6, 6)
    pictures = [Image.open(path) for path in paths]
    given = [paths[0], str(paths[1]), *pictures[2:]]
    features = carp_eval.extract(model, given, num_workers=0, batch_size=4)
    assert features.shape == (6, 256)
    of_key = {key: row for row, key in enumerate(bank.keys)}
    for path, row in zip(paths, features):
        key = str(path.relative_to(tmp_path / "photos"))
        torch.testing.assert_close(row, bank.features()[of_key[key]], rtol=1e-5, atol=1e-6)
    again = carp_eval.extract(
        "random:digits", f"images:{tmp_path / 'photos'}", num_workers=0, dtype="float32"
    )
    assert again.path == bank.path


def test_the_features_are_those_of_the_network(tmp_path):
    class Means(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    picture = Image.new("RGB", (300, 260), (255, 0, 51))
    features = carp_eval.extract(Means(), [picture], num_workers=0)
    expected = [(1.0 - 0.485) / 0.229, (0.0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(features[0], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert carp_eval.load(Means()).feature_dim == 3
    with pytest.raises(UsageError, match="leave branch and layer out"):
        carp_eval.load(Means(), branch="student")


def test_a_bank_is_searched_by_features_and_by_banks(model, tmp_path):
    photographs(tmp_path / "photos")
    photographs(tmp_path / "others", 4)
    options = {"num_workers": 0, "dtype": "float32"}
    bank = carp_eval.extract(model, tmp_path / "photos", **options)
    others = carp_eval.extract(model, tmp_path / "others", **options)
    rows = bank.features().double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = bank.search(bank, 3)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    assert near.indices.tolist() == np.argsort(-cosines, axis=1)[:, :3].tolist()
    np.testing.assert_allclose(near.similarities, -np.sort(-cosines, axis=1)[:, :3], atol=1e-6)
    assert bank.search(bank, 1, include_self=True).indices.flatten().tolist() == list(range(6))
    # The first four photographs of both folders are the same.
    found = bank.search(others, 1)
    assert [bank.keys[row] for row in found.indices.flatten().tolist()] == others.keys
    assert bank.search(bank.features()[2:4] * 7, 1).indices.flatten().tolist() == [2, 3]
    assert torch.equal(
        carp_eval.Bank.open(str(bank.path)).search(others, 2).indices, bank.search(others, 2).indices
    )
    with pytest.raises(UsageError, match="k is 6, but the bank has 5 rows beside the query itself"):
        bank.search(bank, 6)
    with pytest.raises(UsageError, match="wide"):
        bank.search(torch.ones(1, 3), 1)
    pixels = carp_eval.extract("pixels:digits", tmp_path / "others", **options)
    with pytest.raises(BankError, match="cannot be compared"):
        bank.search(pixels, 1)


def test_a_protocol_scores_a_model(model, digit_folder, tmp_path):
    result = carp_eval.evaluate(
        model, "knn@dino", dataset=f"folder:{digit_folder}", k=[5], output=tmp_path / "out"
    )
    assert isinstance(result, carp_eval.Result)
    assert result.counts["queries"] == 40
    assert {score.settings["k"] for score in result.scores} == {5}
    assert len(list((tmp_path / "out").glob("knn@dino-*.json"))) == 1
    spelled = carp_eval.evaluate("random:digits", "knn@dino", dataset=f"folder:{digit_folder}", k=[5])
    assert spelled.scores == result.scores
    with pytest.raises(UsageError, match="has no neighbours to set"):
        carp_eval.evaluate(model, "knn@dino", dataset="digits", neighbours=3)
    with pytest.raises(UsageError, match=r"expected knn@VARIANT, of dino, instdisc, swav"):
        carp_eval.evaluate(model, "knn", dataset="digits")
    with pytest.raises(UnknownNameError, match="Did you mean knn"):
        carp_eval.evaluate(model, "knnn@dino", dataset="digits")


def test_what_cannot_be_is_said(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        carp_eval.extract(model, tmp_path / "empty")
    with pytest.raises(CarpError, match=r"nowhere.jpg"):
        carp_eval.extract(model, ["nowhere.jpg"], num_workers=0)
    with pytest.raises(UsageError, match="Leave skip_bad out"):
        library.extract(model, ["a.jpg"], skip_bad=True)
    with pytest.raises(UsageError, match="there is no model"):
        carp_eval.load("nowhere")


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def test_what_the_documents_show_runs(tmp_path, digit_folder, capsys):
    paths = photographs(tmp_path / "photos")
    paths[4].rename(tmp_path / "holiday.jpg")
    (tmp_path / "pets").symlink_to(digit_folder)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    shown = blocks("docs/library.md")
    assert len(shown) == 3
    names = {"network": network}
    for block in shown:
        # No weights can be downloaded here; what is done with them is the same.
        exec(block.replace("torchvision:resnet50", "random:digits"), names)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 6
    assert all(re.fullmatch(r"[01]\.\d{3}  \S+\.png", line) for line in out[:5])
    assert out[5].startswith("top1 ")
    assert pq.read_table(tmp_path / "photos.parquet").num_rows == 5
    assert names["features"].shape == (1, 12)
    # What the README shows of it is the same.
    assert [block for block in blocks("README.md") if "carp_eval" in block] in ([], [shown[0]])
