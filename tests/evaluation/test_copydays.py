import numpy as np
import pytest
import torch

from carp_eval import results
from carp_eval.cards import loading
from carp_eval.errors import CardError, UsageError
from carp_eval.evaluation import copydays
from carp_eval.evaluation.job import Job, Settings
from tests.evaluation.copydays_scene import (
    RED,
    by_block,
    card,
    draw_scene,
    model,
    paint,
    score,
    write,
)


@pytest.fixture
def colours(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return draw_scene(tmp_path)


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
