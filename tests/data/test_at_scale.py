"""Every kind of data that is too large to hold: two processes of two workers, counted over two epochs."""

from collections import Counter
from dataclasses import dataclass

import datasets
import pytest
import torch

from carp_eval import distributed
from carp_eval.data import order
from carp_eval.data.opening import open_images
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.training_batches import TrainingBatches
from carp_eval.errors import BadImageError
from tests.data.pictures import encoded, picture, write_parquet, write_shards, write_tar

NUM_IMAGES = 53
SIZES = (11, 9, 12, 10, 11)
# Each picture is told by its pixels, whoever brings it.
FIRST = {tuple(picture(number).getpixel((0, 0))): number for number in range(NUM_IMAGES)}
assert len(FIRST) == NUM_IMAGES


@dataclass
class Shown:
    """Views that tell which picture they are of, and which chance they have."""

    def __call__(self, image, seed):
        return [torch.tensor(image.getpixel((0, 0))), torch.tensor([seed])]


def folder(root):
    for number in range(NUM_IMAGES):
        place = root / "train" / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}.png")
    return f"folder:{root}"


def parquet(root):
    first = 0
    for file, size in enumerate(SIZES):
        rows = [{"bytes": encoded(picture(number)), "path": None} for number in range(first, first + size)]
        write_parquet(root / f"train-{file}.parquet", {"image": rows}, {"image": datasets.Image()})
        first += size
    return f"hf:{root}"


def shards(root):
    return f"wds:{write_shards(root, SIZES)}/train-{{0000..0004}}.tar"


def stream(root):
    return f"hf-stream:{parquet(root).removeprefix('hf:')}?buffer=7"


KINDS = (folder, parquet, shards, stream)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request, tmp_path, hub_cache, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    # A window that the data does not fit into.
    monkeypatch.setattr(order, "WINDOW", 2)
    return request.param(tmp_path / "data")


def read(spelling, rank, *, num_workers=2, epochs=(0, 1), start_step=0):
    """Return the picture of each image, and the chance of its views, step by step, for each epoch."""
    training = TrainingBatches(
        open_images(spelling, "train"),
        Shown(),
        batch_size=6,
        seed=3,
        rank=rank,
        world_size=2,
        num_workers=num_workers,
    )
    found = []
    for epoch in epochs:
        steps = [
            [
                (FIRST[tuple(pixel)], seed)
                for pixel, seed in zip(
                    batch.views[0].tolist(), batch.views[1].flatten().tolist(), strict=True
                )
            ]
            for batch in training.epoch(epoch, start_step=start_step)
        ]
        found.append(steps)
    training.close()
    return found


def test_two_processes_of_two_workers_take_each_image_once_an_epoch(kind):
    ranks = [read(kind, rank) for rank in range(2)]
    orders = []
    for epoch in range(2):
        assert [len(rank[epoch]) for rank in ranks] == [8, 8]
        assert {len(step) for rank in ranks for step in rank[epoch]} == {3}
        taken = [image for rank in ranks for step in rank[epoch] for image, _ in step]
        assert set(Counter(taken).values()) == {1}
        assert len(taken) == NUM_IMAGES // 6 * 6
        orders.append(taken)
    assert orders[0] != orders[1]
    chances = [seed for rank in ranks for epoch in rank for step in epoch for _, seed in step]
    assert len(set(chances)) == len(chances)
    # Whatever the number of workers, it is the same.
    assert read(kind, 1, num_workers=0) == ranks[1]
    # Stopped after three steps of the second epoch: exactly what remained.
    for rank in range(2):
        (rest,) = read(kind, rank, epochs=(1,), start_step=3)
        assert rest == ranks[rank][1][3:]


def test_an_epoch_of_shards_reads_two_windows_at_most_at_a_time(tmp_path, carp_home, monkeypatch):
    monkeypatch.setattr(order, "WINDOW", 2)
    images = open_images(shards(tmp_path), "train")
    training = TrainingBatches(images, Shown(), batch_size=4, seed=3, num_workers=0)
    shard_of = [shard for shard, size in enumerate(SIZES) for _ in range(size)]
    read_in = [{shard_of[number] for number in batch.index.tolist()} for batch in training.epoch(0)]
    assert max(map(len, read_in)) <= 4
    first = {shard: min(at for at, there in enumerate(read_in) if shard in there) for shard in range(5)}
    last = {shard: max(at for at, there in enumerate(read_in) if shard in there) for shard in range(5)}
    for at in range(len(read_in)):
        assert sum(first[shard] < at < last[shard] for shard in range(5)) <= 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_of_a_stream_leaves_its_place_to_another_of_its_batch(tmp_path, hub_cache, num_workers):
    content = [encoded(picture(number)) for number in range(12)]
    content[5] = b"no image"
    rows = [{"bytes": image, "path": None} for image in content]
    write_parquet(tmp_path / "train.parquet", {"image": rows}, {"image": datasets.Image()})
    images = open_images(f"hf-stream:{tmp_path}", "train")

    def steps(skipped):
        training = TrainingBatches(
            images, Shown(), batch_size=4, seed=0, num_workers=num_workers, skip_bad=skipped
        )
        return [[FIRST[tuple(pixel)] for pixel in batch.views[0].tolist()] for batch in training.epoch(0)]

    with pytest.raises(BadImageError, match=r"of epoch 1 of hf-stream:.* is not an image .*--skip-bad"):
        steps(None)
    skipped = SkippedImages()
    taken = steps(skipped)
    assert len(skipped) == 1
    assert [len(step) for step in taken] == [4] * 3
    assert [len(set(step)) for step in taken].count(3) == 1
    assert {image for step in taken for image in step} == set(range(12)) - {5}


def test_a_shard_with_bad_samples_trains_with_skip_bad(tmp_path, carp_home):
    members = [(f"{number}.png", encoded(picture(number))) for number in range(8)]
    members[2] = ("2.png", b"no image")
    members[3] = ("3.cls", b"1")
    images = open_images(f"wds:{write_tar(tmp_path / 'x.tar', members)}", "train")
    skipped = SkippedImages()
    training = TrainingBatches(images, Shown(), batch_size=8, seed=0, num_workers=0, skip_bad=skipped)
    (batch,) = training.epoch(0)
    assert sorted(batch.index.tolist()) == [0, 1, 4, 4, 4, 5, 6, 7]
    assert {image.key for image in skipped.by_number.values()} == {"x.tar/2", "x.tar/3"}
