import numpy as np
import pytest
from torch import nn

from carp_eval.errors import CardError, UsageError
from carp_eval.evaluation import copies, copydays
from carp_eval.evaluation.job import Job, Settings
from tests.evaluation.copydays_scene import (
    by_block,
    card,
    draw_scene,
    make,
    model,
    score,
    write,
)


def photographs(root, count, *, folder=""):
    chance = np.random.default_rng(0)
    for number in range(count):
        pixels = np.kron(chance.integers(0, 256, (4, 5, 3)), np.ones((6, 6, 1))).astype(np.uint8)
        write(root, f"{folder}{number:03d}.jpg", pixels)
    return f"folder:{root}"


class Thumbnail(nn.Module):
    """A picture of 6 x 6 pixels, its mean colour taken away."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(6)

    def forward(self, images):
        small = self.pool(images)
        return (small - small.mean(dim=(2, 3), keepdim=True)).flatten(1)


def thumbnails():
    return model(Thumbnail(), native_size=32, width=108)


SMALL = {
    "num_originals": 10,
    "num_backgrounds": 3,
    "blocks": ["strong", "jpegqual-30", "crops-80", "paste-80"],
}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return photographs(tmp_path / "photos", 40)


def test_copies_of_any_folder(pictures, tmp_path):
    record, rows = score(card("copies", **SMALL), pictures, judged=thumbnails(), tmp_path=tmp_path)
    blocks = by_block(record)
    assert blocks["jpegqual-30"] == 100
    assert blocks["crops-80"] < blocks["jpegqual-30"]
    assert record.counts == {
        "bank": 10,
        "classes": 10,
        "queries": 10,
        "distractors": 27,
        "copies": 40,
    }
    assert any(f"10 images drawn from {pictures} (train)" in note for note in record.notes)
    assert rows["label"] == list(range(10))
    assert blocks["strong"] == pytest.approx(100 * np.mean(rows["average_precision"]))
    again, _ = score(card("copies", **SMALL), pictures, judged=thumbnails(), tmp_path=tmp_path)
    assert again.scores == record.scores
    other, _ = score(card("copies", **SMALL), pictures, judged=thumbnails(), tmp_path=tmp_path, seed=1)
    assert other.data["original"] != record.data["original"]


def test_every_block_of_copies_has_an_interval_and_so_have_means(pictures, tmp_path):
    chosen = card("copies", **SMALL | {"blocks": ["strong", "crops-50", "crops-80", "paste-80"]})
    record, _ = score(chosen, pictures, judged=thumbnails(), tmp_path=tmp_path)
    assert {found.settings.get("blocks") for found in record.scores} == {None, "crops", "all"}
    for found in record.scores:
        assert found.low <= found.value <= found.high


def test_originals_backgrounds_and_distractors_are_different_images(pictures, tmp_path):
    found = copies.searched(Job(card("copies", **SMALL), thumbnails(), pictures), card("copies", **SMALL))
    drawn = [
        found.originals,
        found.distractors,
        *{id(made.backgrounds): made.backgrounds for made in found.blocks.values()}.values(),
    ]
    assert [len(images) for images in drawn] == [10, 27, 3]
    assert len({images.key(number) for images in drawn for number in range(len(images))}) == 40
    job = Job(card("copies", **SMALL), thumbnails(), pictures, settings=Settings(num_workers=0))
    copydays.run(job)
    originals, distractors = (set(job.banks[name].keys) for name in ("original", "distractors"))
    assert (len(originals), len(distractors)) == (10, 27)
    assert not originals & distractors
    for block in SMALL["blocks"]:
        assert job.banks[block].keys == job.banks["original"].keys
    # More distractors are these and others, with the same originals.
    fewer = Job(
        card("copies", **SMALL, num_distractors=5), thumbnails(), pictures, settings=Settings(num_workers=0)
    )
    copydays.run(fewer)
    assert set(fewer.banks["original"].keys) == originals
    assert set(fewer.banks["distractors"].keys) < distractors


def test_copies_among_the_images_of_another_data_set(pictures, tmp_path):
    _, others = draw_scene(tmp_path)
    record, _ = score(
        card("copies", **SMALL, distractors=others), pictures, judged=thumbnails(), tmp_path=tmp_path
    )
    assert record.counts["distractors"] == 2
    none, _ = score(
        card("copies", **SMALL, num_distractors=0), pictures, judged=thumbnails(), tmp_path=tmp_path
    )
    assert none.counts["distractors"] == 0
    assert any("without distractors" in note for note in none.notes)
    nothing = card("copies", **SMALL, distractors=others, num_distractors=0)
    record, _ = score(nothing, pictures, judged=thumbnails(), tmp_path=tmp_path)
    assert record.counts["distractors"] == 0


def test_the_test_split_is_copied_where_there_is_one(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    chosen = card("copies", **SMALL)
    record, _ = score(chosen, f"folder:{digit_folder}", judged=thumbnails(), tmp_path=tmp_path)
    assert record.counts["distractors"] == 40 - 13
    assert any("(test)" in note for note in record.notes)


def test_a_data_set_too_small_says_what_would_do(pictures, tmp_path):
    def ask(**changes):
        score(card("copies", **SMALL | changes), pictures, judged=thumbnails(), tmp_path=tmp_path)

    with pytest.raises(UsageError, match=r"40 images in train, but 38 originals, 3 back.*--num-originals 18"):
        ask(num_originals=38)
    with pytest.raises(UsageError, match=r"28 distractors .* at most --num-distractors 27"):
        ask(num_distractors=28)
    with pytest.raises(UsageError, match="more than 40 images"):
        ask(num_backgrounds=40)
    with pytest.raises(UsageError, match="there is no edit 'smudge-3'"):
        ask(blocks=["strong", "smudge-3"])


@pytest.mark.parametrize("blocks", [["jpegqual-3"], ["strong", "strong"], []])
def test_blocks_that_cannot_be_are_refused(blocks):
    with pytest.raises(CardError, match="blocks"):
        card("copies", blocks=blocks)


def test_copies_of_copydays_are_made_of_its_originals(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    record, _ = score(
        card("copies", **SMALL), make(tmp_path / "scene"), judged=thumbnails(), tmp_path=tmp_path
    )
    assert any("(original)" in note for note in record.notes)
    assert record.counts["distractors"] == 130 - 13
    assert by_block(record)["jpegqual-30"] == 100
