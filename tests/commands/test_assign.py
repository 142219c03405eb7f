"""`carp assign` and `carp prototypes` on a small run, held against the run's own checkpoint."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from carp_eval.checkpoints import runs, training
from carp_eval.models import network
from tests.recipes import TINY


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("assign")


@pytest.fixture
def carp(home, carp_in):
    return carp_in(home)


@pytest.fixture
def trained(carp, home, digit_folder):
    if not (home / "runs").exists():
        changes = [f"--set={key}={value}" for key, value in (TINY | {"schedule.epochs": "1"}).items()]
        code, _, told = carp("train", "-d", f"folder:{digit_folder}", "--device", "cpu", *changes)
        assert code == 0, told
    (folder,) = (home / "runs").iterdir()
    return folder


def shares_of(run, images):
    """The softmax over all prototypes of the run's teacher, from its checkpoint alone."""
    checkpoint = training.load(run / runs.LAST)
    teacher = network.build(checkpoint.recipe, seed=0)
    teacher.load_state_dict(checkpoint.teacher)
    teacher.eval()
    mean, std = checkpoint.recipe.data.mean[0], checkpoint.recipe.data.std[0]
    pixels = torch.stack([torch.from_numpy(np.array(image, dtype=np.float32)) for image in images])
    with torch.inference_mode():
        embeddings = teacher((pixels[:, None] / 255 - mean) / std).double()
    rows = checkpoint.teacher["prototypes.weight"].double()
    rows /= rows.square().sum(dim=1, keepdim=True).sqrt()
    exponentials = (embeddings @ rows.T).exp()
    return exponentials / exponentials.sum(dim=1, keepdim=True)


def test_each_image_of_each_split_has_its_prototype(carp, trained, digit_folder):
    code, out, told = carp("assign", "--to", "all.parquet", "--top", "3", "--json", "--device", "cpu")
    assert code == 0, told
    table = pq.read_table("all.parquet")
    rows = table.to_pylist()
    assert [row["split"] for row in rows].count("train") == 96
    assert [row["split"] for row in rows].count("test") == 40
    images = [Image.open(digit_folder / row["split"] / row["key"]) for row in rows]
    shares, numbers = shares_of(trained, images).topk(3, dim=1)
    assert [row["top_prototypes"] for row in rows] == numbers.tolist()
    assert [row["prototype"] for row in rows] == numbers[:, 0].tolist()
    assert np.allclose([row["top_confidences"] for row in rows], shares.numpy(), rtol=1e-3)
    assert np.allclose([row["confidence"] for row in rows], shares[:, 0].numpy(), rtol=1e-3)
    assert all(row["class_name"] == str(row["label"]) == row["key"].partition("/")[0] for row in rows)
    said = json.loads(table.schema.metadata[b"carp_eval"])["assignment"]
    assert (said["method"], said["prototypes"], said["temperature"]) == ("carp", 32, 1.0)
    assert {row["split"]: row["images"] for row in json.loads(out)} == {"train": 96, "test": 40}


def test_images_without_classes_that_no_training_has_seen(carp, trained, tmp_path):
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(5)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    code, _, told = carp("assign", "-d", f"images:{tmp_path}", "--device", "cpu")
    assert code == 0, told
    table = pq.read_table("assignments.parquet")
    assert table.column_names == ["key", "split", "label", "class_name", "prototype", "confidence"]
    assert table["prototype"].to_pylist() == shares_of(trained, images).argmax(dim=1).tolist()
    assert table["label"].null_count == table["class_name"].null_count == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "all.csv"], "must end in .parquet"),
        (["--top", "33"], "has 32 prototypes; 33"),
        (["--prototype-set", "1"], "there is no set 1"),
        (["-m", "random:digits"], "has no prototypes"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_extracted(carp, trained, arguments, message):
    code, _, told = carp("assign", *arguments)
    assert code == 2
    assert message in told.replace("\n", " ")


def test_prototypes_are_counted_and_shown(carp, trained, digit_folder, tmp_path):
    folder = tmp_path / "shown"
    code, out, told = carp("prototypes", "--to", folder, "--most", "3", "--nearest", "4", "--device", "cpu")
    assert code == 0, told
    assert "perplexity" in out
    assert "purity" in out
    rows = sorted((digit_folder / "train").rglob("*.png"))
    shares = shares_of(trained, [Image.open(path) for path in rows])
    sizes = shares.argmax(dim=1).bincount(minlength=32)
    table = pq.read_table(folder / "prototypes.parquet").to_pydict()
    assert table["images"] == sizes.tolist()
    record = json.loads((folder / "prototypes.json").read_text())
    assert record["use"]["empty"] == int((sizes == 0).sum())
    assert record["splits"] == ["train"]
    shown = record["most_used"]
    assert [row["images"] for row in shown] == sorted(sizes.tolist(), reverse=True)[: len(shown)]
    for row in shown:
        assert len(row["nearest"]) == min(4, row["images"])
        of_it = {
            str(path.relative_to(digit_folder / "train")): float(found.max())
            for path, found in zip(rows, shares)
            if found.argmax() == row["prototype"]
        }
        # By their shares: of two that float32 cannot tell apart either may come first.
        shown_shares = [of_it[image["key"]] for image in row["nearest"]]
        assert shown_shares == pytest.approx(sorted(of_it.values(), reverse=True)[:4], rel=1e-4)
        assert len({image["key"] for image in row["nearest"]}) == len(shown_shares)
    with Image.open(folder / "nearest.png") as sheet:
        sheet.load()
        # A label and four images across; as many rows as prototypes are used, three at most.
        assert sheet.width > 5 * 160
        assert sheet.height > len(shown) * 160


def test_the_numbers_alone_as_json(carp, trained):
    code, out, told = carp("prototypes", "--split", "test", "--split", "train", "--json", "--device", "cpu")
    assert code == 0, told
    found = json.loads(out)
    assert found["use"]["images"] == 136
    assert found["use"]["used"] + found["use"]["empty"] == 32
    assert sum(found["prototypes_by_images"].values()) == 32
