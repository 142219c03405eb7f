import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from carp_eval import results
from carp_eval.cards import loading
from carp_eval.data.images import ModelInput
from carp_eval.errors import CardError, UsageError
from carp_eval.evaluation import copies, copydays
from carp_eval.evaluation.copydays import Ranked, average_precision, rank
from carp_eval.evaluation.job import Job, Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.metrics import ranking
from carp_eval.models.model import Model, weights_sha256
from tests.evaluation.copydays_scene import make, write

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
YELLOW, MAGENTA = (255, 255, 0), (255, 0, 255)


class MeanColour(nn.Module):
    """What an eye sees of an image of one colour."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images):
        return self.pool(images).flatten(1)


def model(network=None, *, native_size=224, name="colours", width=3):
    network = network or MeanColour()
    return Model(
        name=name,
        network=network,
        input=ModelInput(native_size=native_size, mean=(0.0,) * 3, std=(1.0,) * 3),
        feature_dim=width,
        weights_sha256=weights_sha256(network.state_dict()),
    )


def paint(root, colours, *, size=(12, 16)):
    for name, colour in colours.items():
        write(root, name, np.full((*size, 3), colour, dtype=np.uint8))


def draw_scene(root):
    """Three originals, copies of them of which some are nearer to another colour, and two distractors."""
    paint(
        root / "copydays",
        {
            "original/200000.jpg": RED,
            "original/200100.jpg": GREEN,
            "original/200200.jpg": BLUE,
            "strong/200001.jpg": (255, 40, 0),
            "strong/200002.jpg": (180, 0, 255),
            "strong/200101.jpg": (230, 250, 0),
            "jpegqual/3/200000.jpg": RED,
            "jpegqual/3/200100.jpg": (0, 250, 10),
            "jpegqual/3/200200.jpg": (10, 0, 250),
            "crops/10/200000.jpg": (0, 60, 250),
            "crops/10/200100.jpg": GREEN,
            "crops/10/200200.jpg": BLUE,
        },
    )
    paint(root / "others", {"yellow.jpg": YELLOW, "magenta.jpg": MAGENTA})
    return f"copydays:{root / 'copydays'}", f"folder:{root / 'others'}"


@pytest.fixture
def colours(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return draw_scene(tmp_path)


def card(variant="carp", **changes):
    return loading.protocol_card("copydays", variant, changes)


def score(card, dataset, *, model=None, tmp_path, seed=0, **settings):
    record, path = evaluate(
        model or globals()["model"](),
        card,
        dataset=dataset,
        settings=Settings(num_workers=0, **settings),
        output=tmp_path / "results",
        seed=seed,
    )
    return record, pq.read_table(path.with_suffix(".parquet")).to_pydict()


def by_block(record, metric="map"):
    key = {"map": "block", "mean_map": "blocks"}[metric]
    return {found.settings[key]: found.value for found in record.scores if found.metric == metric}


def test_map_worked_by_hand_among_the_originals_alone(colours, tmp_path):
    record, rows = score(card(), colours[0], tmp_path=tmp_path)
    # Purple is nearer to blue than to the red it copies: second of three, (0/1 + 1/2) / 2.
    assert rows["key"] == ["strong/200001.jpg", "strong/200002.jpg", "strong/200101.jpg"]
    assert rows["average_precision"] == pytest.approx([1, 1 / 4, 1])
    assert rows["nearer"] == [0, 1, 0]
    assert rows["nearest"] == ["original/200000.jpg", "original/200200.jpg", "original/200100.jpg"]
    # The crop of red is blue with some green: red comes last.
    assert by_block(record) == pytest.approx(
        {
            "strong": 100 * (1 + 1 / 4 + 1) / 3,
            "jpegqual-3": 100,
            "crops-10": 100 * (1 / 6 + 2) / 3,
        }
    )
    assert record.counts == {
        "bank": 3,
        "classes": 3,
        "queries": 3,
        "distractors": 0,
        "copies": 9,
    }
    assert any("without distractors" in note for note in record.notes)
    assert any("not whitened" in note for note in record.notes)
    assert not any("exactly as near" in note for note in record.notes)


def test_an_original_that_is_a_distractor_too_is_said(colours, tmp_path):
    dataset, others = colours
    paint(tmp_path / "others", {"red.jpg": RED})
    record, rows = score(card(distractors=others), dataset, tmp_path=tmp_path)
    # First or second; behind magenta and blue, third or fourth.
    assert rows["average_precision"] == pytest.approx([(1 + 1 / 4) / 2, (1 / 6 + 1 / 8) / 2, 1 / 4])
    assert any("4 copies are exactly as near to another image" in note for note in record.notes)


def test_map_worked_by_hand_with_distractors(colours, tmp_path):
    dataset, others = colours
    record, rows = score(card(distractors=others), dataset, tmp_path=tmp_path)
    # Magenta and blue come before red, yellow before green.
    assert rows["average_precision"] == pytest.approx([1, 1 / 6, 1 / 4])
    assert rows["nearest"][1:] == ["magenta.jpg", "yellow.jpg"]
    assert by_block(record)["strong"] == pytest.approx(100 * (1 + 1 / 6 + 1 / 4) / 3)
    assert record.counts["distractors"] == 2
    assert record.card["distractors"] == others
    assert any(f"3 originals and 2 distractors of {others}" in note for note in record.notes)
    assert set(record.banks) == {"original", "distractors", "strong", "jpegqual-3", "crops-10"}


def test_fewer_distractors_are_drawn_by_seed(colours, tmp_path):
    dataset, others = colours
    nearest = set()
    for seed in range(6):
        record, rows = score(
            card(distractors=others, num_distractors=1), dataset, tmp_path=tmp_path, seed=seed
        )
        assert record.counts["distractors"] == 1
        nearest.add(rows["nearest"][2])
    assert nearest == {"yellow.jpg", "original/200100.jpg"}


def test_a_mean_over_blocks_counts_each_block_once(colours, tmp_path):
    write(tmp_path / "copydays", "crops/20/200000.jpg", np.full((8, 8, 3), RED, dtype=np.uint8))
    record, _ = score(card(), colours[0], tmp_path=tmp_path)
    blocks, means = by_block(record), by_block(record, "mean_map")
    assert blocks["crops-20"] == 100
    assert set(means) == {"crops", "all"}
    assert means["crops"] == pytest.approx((blocks["crops-10"] + 100) / 2)
    assert means["all"] == pytest.approx(np.mean(list(blocks.values())))


def test_what_is_found_too_late_counts_as_not_found(colours, tmp_path):
    dataset, others = colours
    _, rows = score(card(distractors=others, places=2), dataset, tmp_path=tmp_path)
    assert rows["average_precision"] == pytest.approx([1, 0, 1 / 4])


def test_what_a_partial_copy_lacks_is_said(colours, tmp_path):
    (tmp_path / "copydays" / "original" / "200100.jpg").unlink()
    record, rows = score(card(), colours[0], tmp_path=tmp_path)
    assert any("lacks 16 of 19 blocks: jpegqual-5" in note for note in record.notes)
    assert any("3 copies were left out" in note for note in record.notes)
    assert rows["average_precision"][:2] == pytest.approx([1, 1 / 4])
    assert np.isnan(rows["average_precision"][2])
    assert rows["nearest"][2] is None
    assert by_block(record)["strong"] == pytest.approx(100 * (1 + 1 / 4) / 2)


def test_a_copy_without_strong_is_scored_on_its_blocks(colours, tmp_path):
    for path in (tmp_path / "copydays" / "strong").iterdir():
        path.unlink()
    record, _ = score(card(), colours[0], tmp_path=tmp_path)
    assert set(by_block(record)) == {"jpegqual-3", "crops-10"}
    assert any("blocks: strong, jpegqual-5" in note for note in record.notes)


def test_unreadable_images_are_left_out_where_that_was_agreed(colours, tmp_path):
    (tmp_path / "copydays" / "original" / "200000.jpg").write_bytes(b"nothing")
    (tmp_path / "copydays" / "strong" / "200101.jpg").write_bytes(b"nothing")
    record, rows = score(card(), colours[0], tmp_path=tmp_path, skip_bad=True)
    assert record.counts["skipped"] == 2
    assert record.counts["bank"] == 2
    assert rows["key"] == ["strong/200001.jpg", "strong/200002.jpg"]
    assert set(by_block(record)) == {"jpegqual-3", "crops-10"}
    assert any("4 copies were left out: their originals" in note for note in record.notes)


def test_more_distractors_than_there_are_is_an_error(colours, tmp_path):
    dataset, others = colours
    with pytest.raises(
        UsageError,
        match=r"3 images .* distractors, but its split train has 2: ask for at most --num-distractors 2",
    ):
        score(card(distractors=others, num_distractors=3), dataset, tmp_path=tmp_path)
    with pytest.raises(CardError, match="3 distractors of no data set"):
        card(num_distractors=3)


@pytest.mark.parametrize("variant", ["carp", "copies"])
def test_a_number_of_images_to_whiten_on_needs_a_data_set(variant):
    with pytest.raises(CardError, match="3 images of no data set to whiten on"):
        card(variant, num_whitening=3)


def test_another_data_set_is_pointed_to_copies(digit_folder, tmp_path):
    with pytest.raises(UsageError, match=r"has the splits test, train.*--variant copies"):
        score(card(), f"folder:{digit_folder}", tmp_path=tmp_path)


def test_dinos_descriptor_is_the_mean_beside_the_generalised_mean():
    pixels = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    wide = copydays.side_by_side(model(), power=4.0)
    assert wide.feature_dim == 6
    assert wide.layer != copydays.side_by_side(model(), power=3.0).layer
    for features, image in zip(wide.network(pixels).double().numpy(), pixels.double().numpy()):
        expected = [image[c].sum() / 20 for c in range(3)]
        expected += [(sum(value**4 for value in image[c].ravel()) / 20) ** 0.25 for c in range(3)]
        assert features == pytest.approx(expected, abs=1e-6)


def test_dinos_variant_runs_and_says_what_it_had(colours, tmp_path):
    dataset, others = colours
    record, _ = score(card("dino", distractors=others), dataset, tmp_path=tmp_path)
    # On images of one colour both poolings are that colour.
    assert by_block(record)["strong"] == pytest.approx(100 * (1 + 1 / 6 + 1 / 4) / 3)
    assert any("average pool and GeM (p = 4) side by side" in note for note in record.notes)
    assert record.preprocessing["resize"] == 320
    assert record.preprocessing["side"] == "both"


def test_whitening_is_learnt_on_the_images_named(colours, tmp_path):
    dataset, others = colours
    chance = np.random.default_rng(0)
    many = {f"{number}.jpg": tuple(chance.integers(0, 256, 3).tolist()) for number in range(40)}
    paint(tmp_path / "many", many)
    named = f"folder:{tmp_path / 'many'}"
    whitened = card(distractors=others, whitening=named, num_whitening=30)
    record, rows = score(whitened, dataset, tmp_path=tmp_path, dtype="float32")
    assert record.counts["whitened_on"] == 30
    assert any(f"whitened on 30 images of {named}" in note for note in record.notes)
    with pytest.raises(UsageError, match=r"41 images .* whitening"):
        score(card(whitening=named, num_whitening=41), dataset, tmp_path=tmp_path)

    # The same by an eigendecomposition in float64 (any rotation of whitened axes gives the same cosines).
    job = Job(whitened, model(), dataset, settings=Settings(num_workers=0, dtype="float32"))
    copydays.run(job)
    rows_of = {name: bank.features().double().numpy() for name, bank in job.banks.items()}
    learnt = rows_of["whitening"]
    values, axes = np.linalg.eigh(np.cov(learnt.T))
    turn = axes @ np.diag(values**-0.5)

    def turned(name):
        moved = (rows_of[name] - learnt.mean(axis=0)) @ turn
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    database = np.concatenate([turned("original"), turned("distractors")])
    for query, original, found in zip(turned("strong"), (0, 0, 1), rows["nearer"]):
        similarities = database @ query
        assert found == (similarities > similarities[original]).sum()


def slow_average_precision(database, query, right):
    """Count places by loops, and lay trapezoids under precision and recall."""
    own = sum(a * b for a, b in zip(database[right], query))
    before = sum(sum(a * b for a, b in zip(row, query)) > own for row in database)
    left = 1.0 if before == 0 else 0 / before
    return (left + 1 / (before + 1)) / 2


@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_ranks_and_precisions_equal_loops(monkeypatch, rows):
    monkeypatch.setattr(copydays, "BLOCK_ROWS", rows)
    chance = torch.Generator().manual_seed(1)
    database, queries = (torch.randn(n, 6, generator=chance) for n in (40, 9))
    right = torch.randint(40, (9,), generator=chance)
    found = rank(database, queries, right)
    values = average_precision(found, places=None)
    wide = database.double().numpy(), queries.double().numpy()
    expected = [
        slow_average_precision(wide[0], query, number) for query, number in zip(wide[1], right.tolist())
    ]
    assert values == pytest.approx(expected)
    order = (-(wide[1] @ wide[0].T)).argsort(axis=1)
    assert found.nearest.tolist() == order[:, 0].tolist()
    assert found.level.tolist() == [1] * 9
    # As the Revisited benchmark's code has it, whose case without junk this is.
    empty = [np.array([], dtype=np.int64)] * 9
    revisited = ranking.revisited(order, [np.array([number]) for number in right.tolist()], empty)
    assert values == pytest.approx(revisited.average_precision)


def test_equals_have_no_order():
    # The original is there twice, and one more image is nearer to the second query.
    database = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0]])
    found = rank(database, torch.tensor([[1.0, 0.5, 0], [0.5, 1.0, 0]]), torch.tensor([2, 2]))
    assert found.above.tolist() == [0, 1]
    assert found.level.tolist() == [2, 2]
    assert average_precision(found, places=None) == pytest.approx([(1 + 1 / 4) / 2, (1 / 4 + 1 / 6) / 2])
    assert average_precision(found, places=2) == pytest.approx([(1 + 1 / 4) / 2, 1 / 8])
    assert found.nearest[0] in (0, 2)
    assert found.nearest[1] == 1


def test_features_that_are_all_the_same_find_by_chance():
    database = torch.full((50, 4), 0.3)
    found = rank(database, torch.full((3, 4), 0.7), torch.tensor([0, 20, 49]))
    chance = np.mean([1] + [1 / (2 * place) for place in range(2, 51)])
    assert average_precision(found, places=None) == pytest.approx([chance] * 3)


def test_a_cut_is_below_what_counts():
    stands = Ranked(np.array([0, 1, 19, 20]), np.ones(4, dtype=np.int64), np.zeros(4, dtype=np.int64))
    assert average_precision(stands, places=20) == pytest.approx([1, 1 / 4, 1 / 40, 0])


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
    record, rows = score(card("copies", **SMALL), pictures, model=thumbnails(), tmp_path=tmp_path)
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
    again, _ = score(card("copies", **SMALL), pictures, model=thumbnails(), tmp_path=tmp_path)
    assert again.scores == record.scores
    other, _ = score(card("copies", **SMALL), pictures, model=thumbnails(), tmp_path=tmp_path, seed=1)
    assert other.data["original"] != record.data["original"]


def test_every_block_of_copies_has_an_interval_and_so_have_means(pictures, tmp_path):
    chosen = card("copies", **SMALL | {"blocks": ["strong", "crops-50", "crops-80", "paste-80"]})
    record, _ = score(chosen, pictures, model=thumbnails(), tmp_path=tmp_path)
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


def test_copies_among_the_images_of_another_data_set(pictures, colours, tmp_path):
    record, _ = score(
        card("copies", **SMALL, distractors=colours[1]), pictures, model=thumbnails(), tmp_path=tmp_path
    )
    assert record.counts["distractors"] == 2
    none, _ = score(
        card("copies", **SMALL, num_distractors=0), pictures, model=thumbnails(), tmp_path=tmp_path
    )
    assert none.counts["distractors"] == 0
    assert any("without distractors" in note for note in none.notes)
    nothing = card("copies", **SMALL, distractors=colours[1], num_distractors=0)
    record, _ = score(nothing, pictures, model=thumbnails(), tmp_path=tmp_path)
    assert record.counts["distractors"] == 0


def test_the_test_split_is_copied_where_there_is_one(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    chosen = card("copies", **SMALL)
    record, _ = score(chosen, f"folder:{digit_folder}", model=thumbnails(), tmp_path=tmp_path)
    assert record.counts["distractors"] == 40 - 13
    assert any("(test)" in note for note in record.notes)


def test_a_data_set_too_small_says_what_would_do(pictures, tmp_path):
    def ask(**changes):
        score(card("copies", **SMALL | changes), pictures, model=thumbnails(), tmp_path=tmp_path)

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


def test_the_published_number_stands_beside_strong_alone():
    def beside(block):
        score = results.Score(metric="map", value=80.0, settings={"block": block})
        return results.published_for(
            loading.published(),
            score,
            models=["carp-resnet50-400ep-mc"],
            protocol="copydays",
            variant="carp",
            dataset="copydays",
            splits=[card().query_split],
        )

    assert [(known.value, known.document) for known in beside("strong")] == [(84.0, "carp-poster")]
    assert beside("jpegqual-3") == ()


def test_copies_of_copydays_are_made_of_its_originals(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    record, _ = score(
        card("copies", **SMALL), make(tmp_path / "scene"), model=thumbnails(), tmp_path=tmp_path
    )
    assert any("(original)" in note for note in record.notes)
    assert record.counts["distractors"] == 130 - 13
    assert by_block(record)["jpegqual-30"] == 100
