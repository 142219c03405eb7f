"""What the explorer answers, held against the banks' files and float64 by brute force."""

import dataclasses
import io
import time

import numpy as np
import pytest
from PIL import Image

from carp_eval.errors import BankError
from carp_eval.report import plane
from carp_eval.report.explorer.choosing import Chosen
from carp_eval.report.explorer.exhibit import Exhibit
from carp_eval.report.explorer.searching import Searcher
from carp_eval.report.explorer.side import Side
from carp_eval.report.parts.neighbours import rows_of
from tests.report.explorer import rows
from tests.report.explorer.asking import ask


@pytest.fixture(scope="module")
def counted(address):
    """The explorer, once all votes are counted."""
    for _ in range(600):
        if all(each["done"] == each["of"] for each in ask(address, "/api/images").told["judged"]):
            return address
        time.sleep(0.05)
    raise AssertionError("votes are never counted")


@pytest.fixture(scope="module")
def made(chosen):
    return [rows.read(each.bank) for each in chosen]


def png(image):
    into = io.BytesIO()
    image.save(into, format="PNG")
    return into.getvalue()


@pytest.mark.parametrize("side", [0, 1])
def test_neighbours_are_those_of_brute_force(address, made, side):
    features, labels, numbers = made[side]
    for row in (0, 41, 95):
        told = ask(address, f"/api/sides/{side}/images/{numbers[row]}?k=7").told
        near, similarities = rows.neighbours(features, row, 7)
        found = told["neighbours"]
        assert [each["image"] for each in found] == numbers[near].tolist()
        assert [each["similarity"] for each in found] == pytest.approx(similarities[near].tolist(), abs=1e-5)
        assert [each["label"] for each in found] == labels[near].tolist()
        assert [each["same"] for each in found] == (labels[near] == labels[row]).tolist()
        assert told["query"]["image"] == numbers[row]
        assert told["vote"]["label"] == rows.taken_for(features, labels, row)
        assert told["search"]["kind"] == "exact, in memory"


@pytest.mark.parametrize("side", [0, 1])
def test_images_taken_for_another_class_are_those_that_the_vote_says(counted, made, side):
    features, labels, numbers = made[side]
    wrong = {
        int(numbers[row])
        for row in range(len(labels))
        if rows.taken_for(features, labels, row) != labels[row]
    }
    assert 0 < len(wrong) < len(labels)
    told = ask(counted, f"/api/images?only=wrong&side={side}&count=240").told
    assert {each["image"] for each in told["images"]} == wrong
    assert told["judged"][side] == {"done": 96, "of": 96, "wrong": len(wrong), "stopped": ""}
    votes = ask(counted, f"/api/sides/{side}/votes").told
    assert set(votes["wrong"]) == wrong
    assert set(votes["right"]) == set(numbers.tolist()) - wrong
    for each in told["images"]:
        row = numbers.tolist().index(each["image"])
        assert each["taken"][side] == str(rows.taken_for(features, labels, row))


def test_images_that_one_model_alone_has_right(counted, made):
    right = []
    for features, labels, _ in made:
        right.append(np.array([rows.taken_for(features, labels, row) == labels[row] for row in range(96)]))
    told = ask(counted, "/api/images?only=differ&count=240").told
    assert {each["image"] for each in told["images"]} == set(np.flatnonzero(right[0] != right[1]).tolist())
    assert told["total"] > 0


def test_images_are_filtered_by_class_and_name_and_come_in_pages(address, chosen, made):
    _, labels, numbers = made[0]
    of_class = numbers[labels == 2].tolist()
    first = ask(address, "/api/images?label=2&count=10").told
    second = ask(address, "/api/images?label=2&count=10&start=10").told
    assert first["total"] == len(of_class) == 24
    assert [each["image"] for each in first["images"] + second["images"]] == of_class[:20]
    key = chosen[0].bank.keys[50]
    (found,) = ask(address, f"/api/images?words={key.upper()}").told["images"]
    assert found["image"] == numbers[50]
    in_class = ask(address, f"/api/images?words={key.upper()}&label={(labels[50] + 1) % 4}").told
    assert in_class["total"] == 0


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_that_is_sent_is_found_in_the_bank(address, sides, made, side):
    features, _, numbers = made[side]
    row = 17
    content = png(sides[side].exhibit.images.image(int(numbers[row])))
    map_ = ask(address, f"/api/sides/{side}/map").told
    told = ask(address, f"/api/sides/{side}/picture?k=6", body=content).told
    near, similarities = rows.neighbours(features, row, 5)
    assert [each["image"] for each in told["neighbours"]] == numbers[[row, *near]].tolist()
    assert told["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert told["neighbours"][1]["similarity"] == pytest.approx(similarities[near[0]], abs=1e-4)
    assert told["query"] is None
    assert told["vote"]["right"] is None
    # On the principal axes, what is projected comes to where it was.
    point = map_["image"].index(numbers[row])
    assert abs(told["place"]["x"] - map_["x"][point]) <= 2
    assert abs(told["place"]["y"] - map_["y"][point]) <= 2
    assert "projected" in told["place"]["how"]


def test_another_image_than_any_of_the_bank_has_neighbours(address, made):
    told = ask(address, "/api/sides/0/picture", body=png(Image.new("RGB", (300, 200), (200, 30, 30)))).told
    assert len(told["neighbours"]) == 12
    values = [each["similarity"] for each in told["neighbours"]]
    assert values == sorted(values, reverse=True)
    assert values[0] < 0.9


def test_the_map_lays_rows_on_their_principal_components(address, made):
    features, labels, numbers = made[0]
    told = ask(address, "/api/sides/0/map").told
    assert told["image"] == numbers.tolist()
    assert told["label"] == labels.tolist()
    centred = features - features.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    placed = np.stack([told["x"], told["y"]], axis=1).astype(np.float64)
    for axis in (0, 1):
        assert abs(np.corrcoef(placed[:, axis], centred @ axes[axis])[0, 1]) > 0.9999
    assert f"{(values[:2] ** 2).sum() / (values**2).sum():.0%}" in told["how"]
    assert placed.min() >= 0
    assert placed.max() <= 4000


def test_the_nearest_prototype_is_that_of_the_run(address, chosen, made):
    import torch

    from carp_eval.checkpoints import runs, training
    from carp_eval.models import network

    checkpoint = training.load(chosen[1].model.folder / runs.LAST)
    teacher = network.build(checkpoint.recipe, seed=0)
    teacher.load_state_dict(checkpoint.teacher)
    teacher.eval()
    told = ask(address, "/api/sides/1/images/30").told["prototype"]
    image = chosen_image(address, 30)
    mean, std = checkpoint.recipe.data.mean[0], checkpoint.recipe.data.std[0]
    with torch.inference_mode():
        embedding = teacher((torch.from_numpy(image)[None, None] / 255 - mean) / std).double()
    prototypes = checkpoint.teacher["prototypes.weight"].double()
    shares = (embedding @ (prototypes / prototypes.norm(dim=1, keepdim=True)).T).softmax(dim=1)[0]
    assert told["number"] == int(shares.argmax())
    assert told["confidence"] == pytest.approx(float(shares.max()), rel=1e-4)
    assert (told["count"], told["banked"], told["images"]) == (32, False, [])
    assert ask(address, "/api/sides/0/images/30").told["prototype"] is None


def chosen_image(address, number):
    """The picture that the server shows is that of the image, up to WebP's loss; the file itself is the digits'."""
    from carp_eval.data.digits import open_split

    shown = Image.open(io.BytesIO(ask(address, f"/api/pictures/{number}").content)).convert("L")
    images = open_split("train")
    key = ask(address, f"/api/sides/0/images/{number}").told["query"]["key"]
    wanted = next(i for i in range(len(images)) if f"{images.key(i)}.png" == key.rpartition("/")[2])
    pixels = np.array(images.image(wanted), dtype=np.float32)
    assert np.abs(np.array(shown, dtype=np.float32) - pixels).mean() < 12
    return pixels


def test_prototypes_show_their_surest_images_where_embeddings_are_banked(chosen, sides, tmp_path):
    from carp_eval.cards import loading
    from carp_eval.checkpoints.prototypes import open_prototypes
    from carp_eval.data.preprocessing import for_model
    from carp_eval.features.extraction.running import extract

    opened = open_prototypes(str(chosen[1].model.folder))
    images = sides[1].exhibit.images
    preprocessing = for_model(loading.preprocessing("knn@dino"), opened.model.input)
    bank = extract(opened.model, images, preprocessing, dtype="float32", num_workers=0, bank_home=tmp_path)
    embeddings = bank.features().double().numpy()
    prototypes = opened.rows.double().numpy()
    assigned = (embeddings @ prototypes.T).argmax(axis=1)
    side = Side(chosen[1], Exhibit(chosen[1].bank, images), device="cpu", home=tmp_path)
    told = side.of_image(30, k=3)["prototype"]
    assert told["banked"]
    assert told["number"] == assigned[30]
    mine = np.flatnonzero(assigned == assigned[30])
    logits = embeddings @ prototypes.T
    sure = np.exp(logits[mine, assigned[30]] - np.log(np.exp(logits[mine]).sum(axis=1)))
    surest = dict(zip(mine.tolist(), sure))
    assert len(told["images"]) == 6
    # To float32's rounding, in which some are alike.
    assert [surest[image] for image in told["images"]] == pytest.approx(sorted(sure)[:-7:-1], rel=1e-5)


def test_a_bank_larger_than_memory_is_streamed_to_the_same_neighbours(tmp_path):
    bank = rows.make(tmp_path / "bank", labels=[0] * 180_000, names="a", dim=128)
    # Less than its rows take in float32.
    searcher = Searcher(bank, memory=90_000_000)
    assert searcher.kind == "exact, streamed from the disk"
    features, _, _ = rows.read(bank)
    near, similarities = rows.neighbours(features, 70_000, 5)
    found = searcher.others([70_000], k=5).near
    assert found.indices[0].tolist() == near
    assert found.similarities[0].tolist() == pytest.approx(similarities[near].tolist(), abs=1e-6)


def test_an_index_is_used_where_a_bank_has_one_and_is_named(tmp_path):
    from carp_eval.features.indexes import index

    labels = [row % 4 for row in range(2000)]
    bank = rows.make(tmp_path / "bank", labels=labels, names="abcd", dim=16)
    index.build(bank, kind="hnsw", recall=0.9, k=5)
    searcher = Searcher(bank)
    assert searcher.kind.startswith("approximate, by the bank's hnsw index (recall ")
    assert Searcher(bank, approximate=False).kind == "exact, in memory"
    features, _, _ = rows.read(bank)
    found = searcher.others([3, 1500], k=5).near
    assert not (found.indices == np.array([[3], [1500]])).any()
    expected = {row: set(rows.neighbours(features, row, 5)[0]) for row in (3, 1500)}
    hits = sum(len(expected[row] & set(found.indices[place].tolist())) for place, row in enumerate((3, 1500)))
    assert hits >= 8


def test_images_without_a_class_have_neighbours_and_no_vote(tmp_path):
    bank = rows.make(tmp_path / "bank", labels=[-1] * 30, names=())
    side = Side(Chosen(bank, None, "gone"), Exhibit(bank, None, missing="gone"))
    told = side.of_image(4, k=40)
    assert len(told["neighbours"]) == 29
    assert told["vote"] is None
    assert {each["same"] for each in told["neighbours"]} == {None}
    assert {each["class"] for each in told["neighbours"]} == {"no class"}
    assert side.votes.rows == []


def test_neighbours_without_a_class_have_no_vote(tmp_path):
    # Half of the images have none.
    bank = rows.make(tmp_path / "bank", labels=[-1, 0] * 15 + [1], names=("a", "b"))
    side = Side(Chosen(bank, None), Exhibit(bank, None))
    told = side.of_image(30, k=5)
    assert told["vote"]["class"] == "a"
    assert told["vote"]["share"] == pytest.approx(1)
    assert told["vote"]["right"] is False


def test_a_bank_of_one_image_says_so(tmp_path):
    bank = rows.make(tmp_path / "bank", labels=[0], names=("a",))
    side = Side(Chosen(bank, None), Exhibit(bank, None))
    with pytest.raises(BankError, match="single image"):
        side.of_image(0, k=5)
    assert side.map()["x"] == []


def test_a_damaged_bank_says_why_it_has_no_votes(serve, tmp_path):
    bank = rows.make(tmp_path / "bank", labels=[0, 1] * 10, names=("a", "b"))
    side = Side(Chosen(bank, None), Exhibit(bank, None))
    assert len(bank.keys) == 20
    for shard in bank.path.glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-8])
    address = serve([side])
    for _ in range(200):
        (judged,) = ask(address, "/api/images").told["judged"]
        if judged["stopped"]:
            break
        time.sleep(0.05)
    assert "safetensors" in judged["stopped"]
    assert judged["done"] == 0
    assert ask(address, "/api/sides/0/images/0").status == 409


def test_a_point_beside_the_sample_has_a_place_too(tmp_path):
    bank = rows.make(tmp_path / "bank", labels=[0] * 50, names=("a",))
    side = Side(Chosen(bank, None), Exhibit(bank, None), points=10)
    told = side.map()
    assert len(told["x"]) == 10
    assert told["how"].startswith("10 of 50 images, ")
    assert len(side.votes.rows) == 10
    left_out = next(number for number in range(50) if number not in told["image"])
    assert "projected" in side.of_image(left_out, k=3)["place"]["how"]


def test_where_a_map_has_no_axes_a_new_image_stands_amid_its_neighbours(tmp_path, monkeypatch):
    bank = rows.make(tmp_path / "bank", labels=[0] * 40, names=("a",))
    side = Side(Chosen(bank, None), Exhibit(bank, None), points=30, umap=True)
    made = plane.draw(rows_of(bank, range(30)), umap=False)

    def by_umap(features, *, umap):
        assert umap
        return dataclasses.replace(made, axes=None)

    monkeypatch.setattr(plane, "draw", by_umap)
    told = side.map()
    left_out = next(number for number in range(40) if number not in told["image"])
    place = side.of_image(left_out, k=3)["place"]
    assert "mean of its neighbours" in place["how"]
    features, _, _ = rows.read(bank)
    near, similarities = rows.neighbours(features, left_out, 20)
    points = {image: point for point, image in enumerate(told["image"])}
    there = [other for other in near if other in points and similarities[other] > 0]
    weights = similarities[there]
    for axis in "xy":
        values = [told[axis][points[other]] for other in there]
        assert place[axis] == pytest.approx(np.average(values, weights=weights), abs=1)
