from collections import Counter

import pytest
from datasets import ClassLabel, Value
from datasets import Image as ImageFeature

from carp_eval import distributed
from carp_eval.data.decoding import decode
from carp_eval.data.opening import open_images
from carp_eval.data.streamed import StreamedImages
from carp_eval.errors import DataError, UnknownNameError, UsageError
from tests.data.pictures import encoded, picture, write_folder, write_parquet

pytestmark = pytest.mark.usefixtures("hub_cache")

PETS = {"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])}


def pets(root, sizes, *, split="train"):
    """Write Parquet files of so many rows; which picture a row has follows from its number."""
    first = 0
    for file, size in enumerate(sizes):
        rows = [{"bytes": encoded(picture(number)), "path": None} for number in range(first, first + size)]
        labels = [number % 2 for number in range(size)]
        write_parquet(root / f"{split}-{file}.parquet", {"image": rows, "label": labels}, PETS)
        first += size
    return root


PICTURES = {picture(number).tobytes(): number for number in range(200)}


def dealt(images, **options):
    """Deal an epoch and return the picture of each image, step by step, and the number that it has."""
    options = {"seed": 1, "epoch": 0, "batch_size": 6, "rank": 0, "world_size": 1} | options
    steps = list(images.deal(**options))
    shown = [[PICTURES[decode(image, "it").tobytes()] for image in step.encoded] for step in steps]
    return shown, [step.numbers for step in steps]


def flat(steps):
    return [number for step in steps for number in step]


@pytest.fixture
def processes(monkeypatch):
    def are(number):
        monkeypatch.setattr(distributed, "world_size", lambda: number)

    return are


def test_an_epoch_takes_each_image_once_in_an_order_of_chance(tmp_path):
    images = open_images(f"hf-stream:{pets(tmp_path / 'pets', [17, 20, 13])}?buffer=9", "train")
    assert isinstance(images, StreamedImages)
    assert len(images) == 50
    orders = {}
    for epoch in range(3):
        shown, numbers = dealt(images, epoch=epoch)
        assert [len(step) for step in shown] == [6] * 8
        assert len(set(flat(shown))) == 48
        assert flat(numbers) == list(range(48))
        orders[epoch] = tuple(flat(shown))
        assert dealt(images, epoch=epoch)[0] == shown
    assert len(set(orders.values())) == 3
    assert tuple(flat(dealt(images, seed=2)[0])) != orders[0]


@pytest.mark.parametrize(
    ("sizes", "world_size", "by_file", "length"),
    [
        ([20, 20, 20, 20], 2, True, 80),
        ([20, 19, 20, 20], 2, True, 78),
        ([20, 20, 20], 2, False, 60),
        ([41, 12], 2, False, 52),
        ([21, 20, 20], 3, True, 60),
        ([62], 3, False, 60),
    ],
)
def test_processes_share_an_epoch_without_an_image_twice(
    tmp_path, processes, sizes, world_size, by_file, length
):
    processes(world_size)
    images = open_images(f"hf-stream:{pets(tmp_path / 'pets', sizes)}?buffer=9", "train")
    assert (images.by_file, len(images)) == (by_file, length)
    for epoch in range(2):
        parts = [dealt(images, epoch=epoch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert {len(shown) for shown, _ in parts} == {length // 6}
        assert {len(step) for shown, _ in parts for step in shown} == {6 // world_size}
        for which in (0, 1):
            counted = Counter(number for part in parts for number in flat(part[which]))
            assert set(counted.values()) == {1}
            assert len(counted) == length // 6 * 6
    left = sum(sizes) - length
    assert (f"{left} of {sum(sizes)} images are left out" in images.describe()) == bool(left)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("sizes", [[16, 16], [33]])
def test_an_epoch_can_be_taken_up_at_any_step(tmp_path, processes, world_size, sizes):
    processes(world_size)
    images = open_images(f"hf-stream:{pets(tmp_path / 'pets', sizes)}?buffer=9", "train")
    for rank in range(world_size):
        whole = dealt(images, epoch=1, rank=rank, world_size=world_size)
        for start in (0, 1, 3, 5):
            rest = dealt(images, epoch=1, rank=rank, world_size=world_size, start_step=start)
            assert rest == (whole[0][start:], whole[1][start:])


def test_splits_and_their_aliases(tmp_path):
    pets(tmp_path / "pets", [3])
    pets(tmp_path / "pets", [2], split="validation")
    assert len(open_images(f"hf-stream:{tmp_path}/pets", "val")) == 2


@pytest.mark.parametrize("image", [Value("binary"), {"bytes": Value("binary"), "path": Value("string")}])
def test_columns_that_other_tools_wrote(tmp_path, image):
    root = tmp_path / "pets"
    if isinstance(image, dict):
        rows = [{"bytes": encoded(picture(number)), "path": "x.png"} for number in range(6)]
        write_parquet(root / "train.parquet", {"image": rows}, {"image": image})
    else:
        rows = [encoded(picture(number)) for number in range(6)]
        write_parquet(root / "train.parquet", {"image": rows}, {"image": image})
    images = open_images(f"hf-stream:{root}?image=image", "train")
    assert sorted(flat(dealt(images)[0])) == list(range(6))


def test_files_that_say_no_count_need_one(tmp_path):
    write_folder(tmp_path / "pets", {"cat": 4, "dog": 3})
    spelling = f"hf-stream:{tmp_path}/pets"
    with pytest.raises(DataError, match=r"does not say how many images it has.*/pets\?rows="):
        open_images(spelling, "train")
    images = open_images(f"{spelling}?rows=7", "train")
    assert sorted(flat(dealt(images, batch_size=7)[0])) == list(range(7))


def test_a_stream_that_ends_early_is_said(tmp_path):
    images = open_images(f"hf-stream:{pets(tmp_path / 'pets', [20])}?rows=40", "train")
    steps = images.deal(seed=0, epoch=0, batch_size=6, rank=0, world_size=1)
    assert [len(next(steps).numbers) for _ in range(3)] == [6, 6, 6]
    with pytest.raises(DataError, match=r"ended after about 20 images, and 40 were expected.*rows=20"):
        next(steps)


def test_a_file_that_is_damaged_or_goes_away_is_said(tmp_path):
    root = pets(tmp_path / "pets", [20, 20])
    images = open_images(f"hf-stream:{root}", "train")
    (root / "train-1.parquet").unlink()
    with pytest.raises(DataError, match=r"cannot be read|no Parquet"):
        dealt(images)
    (root / "train-1.parquet").write_bytes(b"PAR1 no such thing")
    with pytest.raises(DataError, match="cannot be read"):
        open_images(f"hf-stream:{root}", "train")


def test_a_row_without_an_image_is_a_bad_image(tmp_path):
    rows = [{"bytes": encoded(picture(0)), "path": None}, None]
    write_parquet(tmp_path / "pets" / "train.parquet", {"image": rows}, {"image": ImageFeature()})
    images = open_images(f"hf-stream:{tmp_path}/pets", "train")
    (step,) = images.deal(seed=0, epoch=0, batch_size=2, rank=0, world_size=1)
    assert sorted(step.encoded) == sorted([b"", encoded(picture(0))])


def test_a_stream_shows_images_in_their_order_but_has_no_manifest(tmp_path):
    images = open_images(f"hf-stream:{pets(tmp_path / 'pets', [5, 5])}", "train")
    assert [PICTURES[images.image(number).tobytes()] for number in (7, 2)] == [7, 2]
    assert (images.labels == -1).all()
    with pytest.raises(UsageError, match=r"trained on and nothing else.*say hf: in place"):
        _ = images.manifest_sha256


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ("row=3", UnknownNameError, "Did you mean rows"),
        ("label=label", UnknownNameError, "no option of"),
        ("rows=many", UsageError, "rows is a number from 1 on, not 'many'"),
        ("buffer=0", UsageError, "buffer is a number from 1 on, not '0'"),
        ("image=picture", DataError, "has no column 'picture'"),
    ],
)
def test_options_that_mean_nothing_are_errors(tmp_path, options, kind, message):
    pets(tmp_path / "pets", [3])
    with pytest.raises(kind, match=message):
        open_images(f"hf-stream:{tmp_path}/pets?{options}", "train")


def test_a_stream_is_dealt_to_as_many_processes_as_it_was_opened_for(tmp_path):
    images = open_images(f"hf-stream:{pets(tmp_path / 'pets', [20])}", "train")
    with pytest.raises(UsageError, match="opened for 1 processes and is dealt to 2"):
        dealt(images, world_size=2)
