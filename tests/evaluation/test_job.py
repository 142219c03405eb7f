from dataclasses import replace

import pytest

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import UsageError
from carp_eval.evaluation.job import Job, Settings
from carp_eval.features.extraction import running as extraction


@pytest.fixture
def job(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return make(digit_folder)


def make(digit_folder, *, seed=0, card="dino", size=None, **settings):
    model = open_model("random:digits")
    size = size or model.input.native_size
    return Job(
        loading.protocol_card("knn", card),
        replace(model, input=replace(model.input, native_size=size)),
        f"folder:{digit_folder}",
        settings=Settings(num_workers=0, **settings),
        seed=seed,
    )


def test_a_device_that_cannot_be_is_refused_before_data_are_opened():
    with pytest.raises(UsageError, match="the device 'cuba' cannot be used here"):
        Job(
            loading.protocol_card("knn", "dino"),
            open_model("random:digits"),
            "folder:nowhere",
            settings=Settings(device="cuba"),
        )


def test_a_bank_is_made_once_and_noted(job, monkeypatch):
    first = job.bank("train")
    monkeypatch.delattr(extraction, "forward")
    assert job.bank("train") is first
    assert list(job.banks) == ["train"]
    assert job.manifests == {"train": first.fingerprint.manifest_sha256}


def test_other_images_stand_under_the_name_they_are_given(job):
    job.bank("queries", images=job.images("test"))
    assert len(job.banks["queries"]) == 40
    assert job.manifests["queries"] == job.manifests["test"]


def test_another_preprocessing_gives_another_bank(job):
    first = job.bank("test")
    whole = replace(job.preprocessing, crop=None)
    assert not whole.gives_one_size
    assert job.bank("test", preprocessing=whole).fingerprint != first.fingerprint


def test_what_is_kept_belongs_to_one_evaluation(digit_folder, job):
    job.images("train")
    path = job.unfinished().path

    def other(**changed):
        made = make(digit_folder, **changed)
        made.images("train")
        return made.unfinished().path

    assert other() == path
    assert other(batch_size=8) == path
    assert len({path, other(seed=1), other(card="instdisc"), other(size=64)}) == 4
    # Data that are opened later do not hide what was kept before.
    job.images("test")
    assert job.unfinished().path == path


def test_bars_are_told_by_name(digit_folder, tmp_path):
    told = []
    settings = {
        "bank_home": tmp_path,
        "progress": lambda what: lambda done, total: told.append((what, done, total)),
    }
    make(digit_folder, **settings).bank("test")
    assert told == [("features of test", 40, 40)]
    make(digit_folder).bar("nothing")(1, 2)
