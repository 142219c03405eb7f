"""Trainings on shards and from a stream: stopped in mid-epoch they go on to the bit."""

import os
import signal

import datasets
import pytest

from carp_eval.data.digits import open_split
from carp_eval.errors import UsageError
from carp_eval.pretrain import start
from tests.data.pictures import encoded, write_parquet, write_tar
from tests.pretrain.test_loop import Listener, same
from tests.recipes import TINY


@pytest.fixture(scope="module")
def spellings(tmp_path_factory):
    """96 digits of four classes, dealt to five shards and as many Parquet files."""
    root, whole = tmp_path_factory.mktemp("digits"), open_split("train")
    numbers = [number for number in range(len(whole)) if whole.labels[number] < 4][:96]
    for file in range(5):
        own = numbers[file::5]
        content = [encoded(whole.image(number)) for number in own]
        labels = [str(whole.labels[number]) for number in own]
        members = [
            member
            for number, image, label in zip(own, content, labels, strict=True)
            for member in ((f"{number}.cls", label.encode()), (f"{number}.png", image))
        ]
        write_tar(root / "shards" / f"train-{file}.tar", members)
        rows = {"image": [{"bytes": image, "path": None} for image in content]}
        write_parquet(root / "parquet" / f"train-{file}.parquet", rows, {"image": datasets.Image()})
    return {
        "shards": f"wds:{root}/shards/train-{{0..4}}.tar",
        "stream": f"hf-stream:{root}/parquet?buffer=20",
    }


@pytest.fixture(params=["shards", "stream"])
def spelling(request, spellings, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    return spellings[request.param]


def train(root, spelling, listener=None, *, resume=None, **changes):
    changes = TINY | {"data.name": spelling, "data.augment": "per_image"} | changes
    listener = listener or Listener()
    plan = start.plan(
        "digits",
        display=listener,
        changes=None if resume else changes,
        runs_root=root,
        device="cpu",
        resume=resume,
        num_workers=0,
    )
    return start.train(plan), listener


def test_a_training_that_was_stopped_in_mid_epoch_goes_on_to_the_bit(tmp_path, spelling):
    whole, _ = train(tmp_path / "whole", spelling)
    assert (whole.step, whole.num_steps) == (12, 12)
    stop = Listener(at=9, act=lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped, _ = train(tmp_path / "stopped", spelling, stop)
    assert stopped.step == 9
    resumed, _ = train(tmp_path / "stopped", spelling, resume=str(stopped.folder))
    assert resumed.step == 12
    same(whole.folder, resumed.folder)


@pytest.mark.parametrize("spelling", ["stream"], indirect=True)
def test_what_a_stream_cannot_do_is_said(tmp_path, spelling):
    outcome, listener = train(tmp_path, spelling, **{"schedule.knn_epochs": "1", "schedule.epochs": "1"})
    assert outcome.step == 6
    assert any("reads past the images" in said and "no online k-NN" in said for said in listener.said)
    for changes, message in (
        ({"data.augment": "per_batch"}, "holds all images in memory"),
        ({"data.num_images": "50"}, r"add \?rows=50"),
    ):
        with pytest.raises(UsageError, match=message):
            train(tmp_path, spelling, **changes)
