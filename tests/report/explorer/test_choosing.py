"""Which bank is looked at, and what is said where none can be."""

import pytest

from carp_eval.cards import loading
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.opening import open_model
from carp_eval.data import opening
from carp_eval.data.preprocessing import for_model
from carp_eval.errors import BankError, UsageError
from carp_eval.features.extraction.running import extract
from carp_eval.models import network
from carp_eval.report.explorer import choosing
from carp_eval.report.explorer.choosing import Wanted
from tests.recipes import tiny
from tests.report.explorer import rows


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty home and an empty folder."""
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def banked(here, digit_folder):
    """Make a model's bank of a split, and name it."""

    def make(spelled, split="train"):
        model = open_model(spelled)
        preprocessing = for_model(loading.preprocessing("knn@dino"), model.input)
        images = opening.open_images(f"folder:{digit_folder}", split)
        return extract(model, images, preprocessing, num_workers=0)

    return make


def trained(name, seed=1):
    recipe, folder = tiny(), runs.RUNS / name
    (folder / "checkpoints").mkdir(parents=True)
    state = network.build(recipe, seed=seed).state_dict()
    training.save(
        folder / runs.LAST,
        training.TrainingCheckpoint(
            recipe=recipe, step=1, world_size=1, student=state, teacher=state, optimiser={}
        ),
    )
    return folder


def test_a_folder_is_taken_and_its_model_opened_by_the_name_that_the_bank_has(banked):
    bank = banked("pixels:digits")
    chosen = choosing.choose(bank.path, Wanted())
    assert chosen.bank.path == bank.path
    assert chosen.model.weights_sha256 == bank.fingerprint.weights_sha256
    assert chosen.closed == ""


def test_a_runs_bank_leads_to_the_run_by_its_folders_name(banked):
    trained("mine")
    bank = banked("runs/mine")
    assert bank.record.model == "mine"
    chosen = choosing.choose(bank.path, Wanted())
    assert chosen.model.folder.name == "mine"


def test_other_weights_than_the_banks_are_not_used(banked):
    folder = trained("mine")
    bank = banked("runs/mine")
    (folder / runs.LAST).unlink()
    (folder / "checkpoints").rmdir()
    folder.rmdir()
    trained("mine", seed=2)
    chosen = choosing.choose(bank.path, Wanted())
    assert chosen.model is None
    assert "other weights" in chosen.closed
    with pytest.raises(UsageError, match="other weights"):
        choosing.choose(bank.path, Wanted(model="runs/mine"))


def test_a_model_that_is_gone_leaves_the_bank_to_look_at(here):
    bank = rows.make(here / "bank", labels=[0, 1], names="ab", model="nothing-that-exists")
    chosen = choosing.choose(bank.path, Wanted())
    assert chosen.model is None
    assert "nothing-that-exists" in chosen.closed


def test_the_last_runs_test_bank_comes_first(banked):
    trained("first")
    banked("pixels:digits", "test")
    banked("runs/first", "train")
    wanted = banked("runs/first", "test")
    assert choosing.choose(None, Wanted()).bank.path == wanted.path
    assert choosing.choose(None, Wanted(split="train")).bank.record.split == "train"
    assert choosing.choose(None, Wanted(model="pixels:digits")).bank.record.model == "pixels:digits"


def test_without_a_run_the_newest_bank_is_taken(banked):
    banked("pixels:digits", "train")
    newest = banked("pixels:digits", "test")
    assert choosing.choose(None, Wanted()).bank.path == newest.path


def test_where_there_is_no_bank_the_command_that_makes_one_is_named(banked):
    with pytest.raises(UsageError, match="carp extract"):
        choosing.choose(None, Wanted())
    with pytest.raises(UsageError, match=r"carp extract -m pixels:digits -d digits"):
        choosing.choose(None, Wanted(model="pixels:digits"))
    bank = banked("pixels:digits")
    with pytest.raises(UsageError, match=r"\(validation\): there is folder:.* \(train, pool\)"):
        choosing.choose(None, Wanted(model="pixels:digits", split="validation"))
    with pytest.raises(BankError, match="not a finished bank"):
        choosing.choose(bank.path.parent, Wanted())


def test_a_second_model_stands_beside_the_first_on_the_same_images(banked):
    trained("mine")
    first, other = banked("pixels:digits"), banked("runs/mine")
    banked("runs/mine", "test")
    assert choosing.beside(first, "runs/mine", Wanted()).bank.path == other.path
    assert choosing.beside(first, str(other.path), Wanted()).model is not None


def test_the_leak_checks_pictures_are_no_model(banked, here):
    # Neither they nor raw pixels have weights: the hash of none is the same.
    bank = banked("pixels:digits")
    other = rows.make(bank.path.parent / "other", labels=[0] * 96, names="a", model="thumbnails")
    record = other.record.model_copy(
        update={"fingerprint": bank.fingerprint.model_copy(update={"preprocessing": {"resize": 16}})}
    )
    (other.path / "bank.json").write_text(record.model_dump_json())
    trained("mine")
    first = banked("runs/mine")
    assert choosing.beside(first, "pixels:digits", Wanted()).bank.path == bank.path
    assert choosing.choose(None, Wanted(model="pixels:digits")).bank.path == bank.path
    (here / "runs" / "mine" / runs.LAST).unlink()
    assert choosing.choose(None, Wanted()).bank.path == first.path


def test_raw_pixels_of_another_recipe_are_another_model(banked):
    bank = banked("pixels:digits")
    other = rows.make(bank.path.parent / "other", labels=[0] * 96, names="a", dim=bank.dim, model="pixels:x")
    told = bank.fingerprint.preprocessing | {"std": [0.5]}
    record = other.record.model_copy(
        update={
            "fingerprint": bank.fingerprint.model_copy(update={"preprocessing": told}),
            "created": "2099-01-01T00:00:00+00:00",
        }
    )
    (other.path / "bank.json").write_text(record.model_dump_json())
    assert choosing.choose(None, Wanted(model="pixels:digits")).bank.path == bank.path


def test_other_images_do_not_stand_beside(banked):
    trained("mine")
    first, other = banked("pixels:digits"), banked("runs/mine", "test")
    with pytest.raises(UsageError, match=r"no other bank of the same images.*carp extract -m runs/mine -d"):
        choosing.beside(first, "runs/mine", Wanted())
    with pytest.raises(UsageError, match=r"different images .*split: train and test; images: 96 and 40"):
        choosing.beside(first, str(other.path), Wanted())


def test_a_bank_does_not_stand_beside_itself(banked):
    first = banked("pixels:digits")
    with pytest.raises(UsageError, match="no other bank"):
        choosing.beside(first, "pixels:digits", Wanted())
    with pytest.raises(UsageError, match="already"):
        choosing.beside(first, str(first.path), Wanted())


def test_a_home_that_is_given_is_looked_in(banked, monkeypatch, tmp_path):
    bank = banked("pixels:digits")
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(UsageError, match="none at all"):
        choosing.choose(None, Wanted(model="pixels:digits"))
    wanted = Wanted(model="pixels:digits", home=bank.path.parent)
    assert choosing.choose(None, wanted).bank.path == bank.path
