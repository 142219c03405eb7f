"""A user's way through the commands: train, extract, look into the bank, score; on a few digits."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.recipes import TINY


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("journey")


@pytest.fixture
def carp(home, carp_in):
    return carp_in(home)


@pytest.fixture
def trained(carp, home, digit_folder):
    if not (home / "runs").exists():
        changes = [f"--set={key}={value}" for key, value in TINY.items()]
        code, _, told = carp("train", "-d", f"folder:{digit_folder}", "--device", "cpu", *changes)
        assert code == 0, told
    (folder,) = (home / "runs").iterdir()
    return folder


def test_training_then_scoring_needs_nothing_else_said(carp, trained):
    code, out, told = carp("eval", "knn", "--k", "5", "--k", "20")
    assert code == 0, told
    assert "knn@dino" in out
    assert "top1 (k = 5)" in out
    assert "95 % interval" in out
    assert str(trained / "results") in out.replace("\n", "") or trained.name in out
    records = list((trained / "results").glob("knn@dino-*.json"))
    record = json.loads(records[0].read_text())
    assert record["counts"]["bank"] == 96
    assert record["counts"]["queries"] == 40
    assert record["weights_sha256"]
    assert record["card"]["k"] == [5, 20]
    predictions = pq.read_table(records[0].with_suffix(".parquet")).to_pydict()
    assert len(predictions["key"]) == len(set(predictions["key"])) == 40
    right = sum(p == y for p, y in zip(predictions["predicted_k20"], predictions["label"]))
    top1 = next(s for s in record["scores"] if s["metric"] == "top1" and s["settings"] == {"k": 20})
    assert top1["value"] == pytest.approx(100 * right / 40)
    assert top1["low"] <= top1["value"] <= top1["high"]


def test_json_is_all_that_stands_on_standard_output(carp, trained):
    code, out, told = carp("eval", "cluster", "--json", "--restarts", "2")
    assert code == 0, told
    scores = {score["metric"] for score in json.loads(out)["scores"]}
    assert {"nmi", "ami", "ari", "fms", "homogeneity", "completeness", "v"} <= scores


def test_retrieval_and_the_label_free_scores_read_the_same_bank(carp, trained):
    code, out, told = carp("eval", "retrieval", "--k", "1", "--k", "5", "--json")
    assert code == 0, told
    ranked = json.loads(out)
    assert {"map", "r_precision"} <= {score["metric"] for score in ranked["scores"]}
    code, out, told = carp("eval", "labelfree", "--json")
    assert code == 0, told
    assert "rankme" in {score["metric"] for score in json.loads(out)["scores"]}


@pytest.mark.parametrize("variant", ["cached-grid", "logreg"])
def test_a_linear_probe_is_chosen_on_a_part_of_train(carp, trained, tmp_path, variant):
    card = tmp_path / "small.toml"
    small = "batch_size = 16\nepochs = 5" if variant == "cached-grid" else "number = 5"
    card.write_text(f'extends = "linear@{variant}"\nvariant = "small"\n{small}\n')
    code, out, told = carp("eval", "linear", "--variant", card, "--json")
    assert code == 0, told
    top1 = next(score for score in json.loads(out)["scores"] if score["metric"] == "top1")
    assert 25 < top1["value"] <= 100


def test_a_dry_run_says_what_would_run_and_does_nothing(carp, trained):
    before = sorted((trained / "results").glob("*")) if (trained / "results").exists() else []
    for command in (("eval", "knn"), ("eval", "cluster"), ("extract",)):
        code, out, told = carp(*command, "--dry-run", "--json")
        assert code == 0, told
        assert json.loads(out)
    assert (sorted((trained / "results").glob("*")) if (trained / "results").exists() else []) == before
    assert "schedule" in carp("train", "--dry-run")[2]


def test_a_bank_is_made_once_looked_into_and_mended(carp, trained):
    first = json.loads(carp("extract", "--json")[1])
    assert [row["rows"] for row in first] == [96, 40]
    bank = Path(first[1]["bank"])
    shard = bank / "features-00000.safetensors"
    made = shard.stat().st_mtime_ns
    assert json.loads(carp("extract", "--json")[1]) == first
    assert shard.stat().st_mtime_ns == made
    code, out, _ = carp("bank", "info", bank, "--json")
    assert code == 0
    assert "test" in out
    assert carp("bank", "verify", bank)[0] == 0
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    code, _, told = carp("bank", "verify", bank)
    assert code == 2
    assert "features-00000" in told
    assert carp("extract", "--json")[0] == 0
    assert carp("bank", "verify", bank)[0] == 0


def test_the_baselines_and_both_branches_are_models_too(carp, trained):
    hashes = set()
    for model in (
        ["-m", trained],
        ["-m", trained, "--branch", "student"],
        ["-m", f"random:{trained}"],
        ["-m", f"pixels:{trained}"],
    ):
        code, out, told = carp("eval", "knn", "--k", "3", "--json", *model)
        assert code == 0, told
        hashes.add(json.loads(out)["banks"]["train"])
    assert len(hashes) == 4


def test_the_projection_is_scored_by_the_variant_that_asks_for_it(carp, trained):
    code, out, told = carp("eval", "knn", "--variant", "swav", "--k", "3", "--json")
    assert code == 0, told
    assert json.loads(out)["layer"] == "projection"


def test_more_neighbours_than_rows_is_said(carp, trained):
    code, out, told = carp("eval", "knn", "--k", "97")
    assert code == 2
    assert "97" in told
    assert "96" in told
    assert out == ""


def test_a_corrupt_image_stops_or_is_skipped_and_listed(carp, trained, digit_folder, tmp_path):
    import shutil

    copy = shutil.copytree(digit_folder, tmp_path / "copy")
    broken = sorted((copy / "test" / "0").iterdir())[0]
    broken.write_bytes(b"not a picture")
    code, _, told = carp("eval", "knn", "--k", "3", "-d", f"folder:{copy}")
    assert code == 2
    assert broken.name in told
    code, out, told = carp("eval", "knn", "--k", "3", "-d", f"folder:{copy}", "--skip-bad", "--json")
    assert code == 0, told
    assert json.loads(out)["counts"]["queries"] == 39
    assert json.loads(out)["counts"]["skipped"] == 1


def test_views_can_be_looked_at(carp, trained, tmp_path):
    code, _, told = carp("train", "--preview-views", tmp_path / "views.png")
    assert code == 0, told
    assert (tmp_path / "views.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_run_goes_on_by_its_name_or_as_the_last(carp, trained):
    assert "nothing to go on with" in carp("train", "--resume", trained)[2]
    assert "nothing to go on with" in carp("train", "--resume", "last")[2]
