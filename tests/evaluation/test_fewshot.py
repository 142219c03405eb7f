import numpy as np
import pytest

from carp_eval.cards import loading
from carp_eval.cards.fewshot import SvmFewshotCard
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import CardError, UsageError
from carp_eval.evaluation import fewshot, multilabel
from carp_eval.evaluation.job import Job, Settings
from carp_eval.evaluation.liblinear import Machine
from carp_eval.evaluation.multilabel import Split
from carp_eval.evaluation.running import evaluate
from tests.evaluation import voc_scene
from tests.evaluation.test_liblinear import by_scikit_learn
from tests.metrics.test_voc import by_loops

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
CLASSES = range(20)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return voc_scene.make(tmp_path / "copy")


@pytest.fixture(scope="module")
def model():
    return open_model("random:digits")


def score(model, copy, tmp_path, variant, changes, **settings):
    card = loading.protocol_card("fewshot", variant, changes)
    settings = Settings(num_workers=0, device="cpu", **settings)
    return evaluate(
        model, card, dataset=copy, leaks="ignore", settings=settings, output=tmp_path / "results"
    )[0]


def shown(rows=400, classes=20):
    random = np.random.default_rng(0)
    return random.choice(np.array([1, 0, -1], dtype=np.int8), (rows, classes), p=(0.1, 0.1, 0.8))


def test_together_n_images_are_drawn_of_each_class_and_all_learn_from_all():
    targets = shown()
    draws = fewshot.draw_together(targets, CLASSES, n=3, seed=0, number=0)
    rows = draws[0].rows
    assert len(rows) == 60
    for c, draw in enumerate(draws):
        assert np.array_equal(draw.rows, rows)
        assert np.array_equal(draw.targets, targets[rows, c])
        # The c-th three were drawn for class c.
        own = rows[3 * c : 3 * c + 3]
        assert (targets[own, c] == 1).all()
        assert len(set(own.tolist())) == 3
    # With so many classes some image is drawn for two of them, and stands there twice.
    assert len(set(rows.tolist())) < 60


def test_apart_each_class_has_n_images_and_others_without_it():
    targets = shown()
    draws = fewshot.draw_apart(targets, CLASSES, n=2, negatives=19, seed=0, number=0)
    assert len({tuple(draw.rows.tolist()) for draw in draws}) == 20
    for c, draw in enumerate(draws):
        assert len(set(draw.rows.tolist())) == len(draw.rows) == 40
        assert np.array_equal(draw.targets, targets[draw.rows, c])
        assert sorted(draw.targets.tolist()) == [-1] * 38 + [1, 1]


@pytest.mark.parametrize("draw", [fewshot.draw_together, fewshot.draw_apart])
def test_draws_are_the_seeds_and_differ(draw):
    targets = shown()
    more = {"negatives": 19} if draw is fewshot.draw_apart else {}

    def rows(classes=CLASSES, **changed):
        drawn = draw(targets, classes, **({"n": 3, "seed": 0, "number": 0} | more | changed))
        return tuple(drawn[0].rows.tolist())

    assert rows() == rows()
    assert len({rows(), rows(seed=1), rows(number=1), rows(n=4)[: len(rows())]}) == 4


def test_all_images_come_up():
    """Each of 40 images with the class is drawn about as often as the others."""
    targets = np.where(np.arange(80) < 40, 1, -1).astype(np.int8)[:, None]
    times = np.zeros(80)
    for number in range(600):
        (draw,) = fewshot.draw_apart(targets, [0], n=4, negatives=1, seed=0, number=number)
        times[draw.rows] += 1
    assert times.sum() == 4800
    assert (abs(times - 60) < 35).all()


def test_where_there_are_fewer_all_are_taken():
    targets = -np.ones((30, 2), dtype=np.int8)
    targets[:2, 0] = targets[5:15, 1] = 1
    together = fewshot.draw_together(targets, [0, 1], n=4, seed=0, number=0)
    assert sorted(together[0].targets.tolist()) == [-1] * 4 + [1] * 2
    apart = fewshot.draw_apart(targets, [0, 1], n=4, negatives=19, seed=0, number=0)
    assert sorted(apart[0].targets.tolist()) == [-1] * 28 + [1] * 2


def by_hand(model, copy, card, difficult):
    """Each draw's mAP for each C, on the test images and on what was not drawn, by scikit-learn and loops."""
    job = Job(card, model, copy, settings=Settings(num_workers=0), leaks="ignore")
    train, test = map(multilabel.read, multilabel.banks(job))
    learnt = np.where(train.targets == 0, -1, train.targets) if difficult == "negative" else train.targets
    learnt = learnt.astype(np.int8)
    scored, rest = (np.zeros((len(card.n), card.draws, len(card.costs), 20)) for _ in range(2))
    for place, n in enumerate(card.n):
        for number in range(card.draws):
            if card.negatives is None:
                draws = fewshot.draw_together(learnt, CLASSES, n=n, seed=0, number=number)
            else:
                draws = fewshot.draw_apart(
                    learnt, CLASSES, n=n, negatives=card.negatives, seed=0, number=number
                )
            for c, draw in enumerate(draws):
                left = np.setdiff1d(np.arange(len(learnt)), draw.rows)
                for which, cost in enumerate(card.costs):
                    machine = by_scikit_learn(train.features[draw.rows], draw.targets, cost)
                    for into, features, targets in (
                        (scored, test.features, test.targets[:, c]),
                        (rest, train.features[left], train.targets[left, c]),
                    ):
                        decided = machine.decision_function(features)
                        into[place, number, which, c] = by_loops(decided, targets, difficult)
    return scored.mean(axis=3) * 100, np.nanmean(rest, axis=3) * 100


def by_metric(record, metric):
    return {tuple(found.settings.items()): found.value for found in record.scores if found.metric == metric}


def test_pcl_is_scikit_learn_draw_by_draw(model, copy, tmp_path):
    changes = {"n": [1, 3], "draws": 4}
    record = score(model, copy, tmp_path, "pcl", changes)
    card = loading.protocol_card("fewshot", "pcl", changes)
    scored, _ = by_hand(model, copy, card, "negative")
    for place, n in enumerate((1, 3)):
        values = scored[place, :, 0]
        assert by_metric(record, "map")[("n", n),] == pytest.approx(values.mean(), abs=1e-9)
        deviation = np.sqrt(((values - values.mean()) ** 2).sum() / 4)
        assert by_metric(record, "map_std")[("n", n),] == pytest.approx(deviation, abs=1e-9)
        for number, value in enumerate(values):
            found = by_metric(record, "map_of_draw")[("n", n), ("draw", number)]
            assert found == pytest.approx(value, abs=1e-9)
    assert record.counts["machines"] == 2 * 4 * 20
    assert "map is the mean of 4 draws, map_std their standard deviation (divided by 4)" in record.notes


@pytest.mark.parametrize(("variant", "chosen_on"), [("vissl", "rest"), ("vissl-best-on-test", "test")])
def test_one_c_is_chosen_for_all_draws_of_a_number(model, copy, tmp_path, variant, chosen_on):
    changes = {"n": [1, 2], "draws": 2, "negatives": 6, "costs": [0.01, 1.0, 10.0]}
    record = score(model, copy, tmp_path, variant, changes)
    card = loading.protocol_card("fewshot", variant, changes)
    assert card.chosen_on == chosen_on
    scored, rest = by_hand(model, copy, card, "ignored")
    best = {"rest": rest, "test": scored}[chosen_on].mean(axis=1).argmax(axis=1)
    found = by_metric(record, "map")
    for place, n in enumerate((1, 2)):
        wanted = scored[place, :, best[place]].mean()
        assert found[("n", n), ("C", card.costs[best[place]])] == pytest.approx(wanted, abs=1e-9)
    assert len(found) == 2
    told = {"rest": "trainval images that were not drawn", "test": "the test images: this flatters"}[
        chosen_on
    ]
    assert any(told in note for note in record.notes)


def test_a_choice_on_the_test_images_is_in_the_name():
    for variant, chosen_on in (("vissl", "test"), ("vissl-best-on-test", "rest")):
        with pytest.raises(CardError, match="a variant whose name says best-on-test"):
            loading.protocol_card("fewshot", variant, {"chosen_on": chosen_on})


def test_c_is_chosen_on_what_was_not_drawn():
    random = np.random.default_rng(0)
    train, test = (
        Split(random.normal(size=(50, 6)), shown(50, 2), ("a", "b"), (), {}, "here") for _ in range(2)
    )
    card = loading.protocol_card("fewshot", "vissl")
    assert isinstance(card, SvmFewshotCard)
    for c in range(2):
        (drawn,) = fewshot.draw_apart(train.targets, [c], n=2, negatives=5, seed=0, number=0)
        machine = Machine(random.normal(size=6), 0.5, 1)
        found = fewshot._Judge(card, train, test, c, drawn)(machine)
        rest = np.setdiff1d(np.arange(50), drawn.rows)
        wanted = [
            by_loops(features @ machine.weights, targets, "ignored")
            for features, targets in (
                (test.features, test.targets[:, c]),
                (train.features[rest], train.targets[rest, c]),
            )
        ]
        assert found == pytest.approx(wanted, abs=1e-12)


def test_few_images_are_told(model, copy, tmp_path):
    record = score(model, copy, tmp_path, "vissl", {"n": [4], "draws": 1, "costs": [1.0]})
    positives = sum(voc_scene.targets(number)[9] == 1 for number in range(60))
    negatives = sum(voc_scene.targets(number)[9] == -1 for number in range(60))
    few = [note for note in record.notes if note.startswith("fewer than")]
    assert f"cow {positives}" in few[0] or positives >= 4
    assert few[-1].startswith("fewer than 76 images without the class to draw from, all taken")
    assert f"cow {negatives}" in few[-1]


def test_what_cannot_be_told_apart_or_chosen_is_an_error(model, copy, tmp_path):
    lists = tmp_path / "copy/VOCdevkit/VOC2007/ImageSets/Main"
    with pytest.raises(UsageError, match="leaves none that shows a class to choose one of 11 C"):
        score(model, copy, tmp_path, "vissl", {"n": [16], "draws": 1, "negatives": 20})
    # The first image shows nothing, so that it is never drawn, and all others a person.
    for path in lists.glob("*_trainval.txt"):
        first, *others = path.read_text().splitlines()
        if path.stem.startswith("person"):
            others = [f"{line[:6]}  1" for line in others]
        path.write_text("\n".join([f"{first[:6]} -1", *others]))
    with pytest.raises(UsageError, match="has none without person"):
        score(model, copy, tmp_path, "pcl", {"n": [1], "draws": 1})


def test_the_cards_are_the_references():
    pcl, vissl = (loading.protocol_card("fewshot", name) for name in ("pcl", "vissl"))
    assert pcl.n == vissl.n == (1, 2, 4, 8, 16)
    assert (pcl.draws, pcl.costs, pcl.negatives, pcl.difficult_in_train) == (5, (0.5,), None, "negative")
    assert (vissl.draws, len(vissl.costs), vissl.negatives, vissl.difficult_in_train) == (
        5,
        11,
        19,
        "ignored",
    )
    with pytest.raises(CardError, match="mode"):
        loading.protocol_card("fewshot", "pcl", {"mode": "tree"})
