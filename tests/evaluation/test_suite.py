import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from carp_eval.cards.suite import chosen
from carp_eval.cards.suite import suite as read
from carp_eval.errors import CheckpointError, UnknownNameError
from carp_eval.evaluation import suite_record
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.suite import Suite, checkpoints
from tests.features.scene import Noise, model

CARD = """
version = 1
summary = "two data sets, one that is not there, one layer that is not there"
shown = [{ metric = "top1", settings = { k = 3 } }]

[[averages]]
name = "Avg @3"
dataset = "transfer-knn"
shown = { metric = "top1", settings = { k = 3 } }

[[entries]]
kind = "knn"
variant = "dino"
dataset = "folder:ONE"
changes = { k = [3, 5] }

[[entries]]
kind = "knn"
variant = "dino"
dataset = "folder:NOWHERE"

[[entries]]
kind = "knn"
variant = "swav"
dataset = "folder:ONE"

[[entries]]
kind = "knn"
variant = "instdisc"
dataset = "folder:TWO"
changes = { k = [3], query_split = "train" }
"""


@pytest.fixture
def place(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        for split, shift in (("train", 0), ("test", 10)):
            images = Noise(24, seed=seed + shift)
            for number in range(len(images)):
                folder = tmp_path / name / split / images.class_names[images.labels[number]]
                folder.mkdir(parents=True, exist_ok=True)
                images.image(number).save(folder / f"{number:02d}.png")
    paths = CARD.replace("ONE", f"{tmp_path}/one").replace("TWO", f"{tmp_path}/two")
    (tmp_path / "mine.toml").write_text(paths.replace("NOWHERE", f"{tmp_path}/nowhere"))
    return tmp_path


def open_at(layer):
    if layer == "projection":
        raise CheckpointError("there is no head in these weights")
    return model()


def ready(place, card=None, **options):
    settings = Settings(bank_home=place / "banks", num_workers=0, device="cpu")
    card = card or read(str(place / "mine.toml"))
    return Suite(card, open_at, settings=settings, output=place / "results", **options)


def run(made, steps=None, stop_at=None):
    met = []

    @contextmanager
    def within(step):
        met.append(step.title)
        if len(met) == stop_at:
            raise KeyboardInterrupt
        yield made._settings

    return list(made.run(made.plan() if steps is None else steps, within=within)), met


def states(steps):
    return [step.state for step in steps]


def test_what_fails_does_not_stop_the_rest(place):
    made = ready(place)
    assert states(made.plan()) == ["to run", "to run", "skipped", "to run"]
    steps, met = run(made)
    assert states(steps) == ["done", "failed", "skipped", "done"]
    assert "nowhere" in steps[1].reason
    assert steps[2].reason == "there is no head in these weights"
    assert len(met) == 3
    assert all(step.path.exists() for step in steps if step.state == "done")
    assert [name for name, _ in steps[0].scores(made.card.shown)] == ["top1 (k = 3)"]


def test_what_is_done_is_not_done_again(place):
    first, _ = run(ready(place))
    again, met = run(ready(place))
    assert states(again) == ["done before", "failed", "skipped", "done before"]
    assert met == [first[1].title]
    assert [step.path for step in again] == [step.path for step in first]
    assert again[0].record == first[0].record


def test_copies_are_not_made_again_while_their_images_stay(place):
    text = CARD.partition("[[averages]]")[0].replace('"top1", settings = { k = 3 }', '"map"') + (
        '[[entries]]\nkind = "copydays"\nvariant = "copies"\n'
        f'dataset = "folder:{place}/one"\nchanges = {{ num_originals = 4, num_backgrounds = 4 }}\n'
    )
    (place / "copies.toml").write_text(text)
    card = read(str(place / "copies.toml"))
    assert states(run(ready(place, card))[0]) == ["done"]
    assert states(ready(place, card).plan()) == ["done before"]
    (place / "one/test/a/more.png").write_bytes(next((place / "two/test/a").iterdir()).read_bytes())
    assert states(ready(place, card).plan()) == ["to run"]
    shutil.rmtree(place / "one")
    assert states(ready(place, card).plan()) == ["to run"]


@pytest.mark.parametrize("what", ["data", "seed", "leaks", "card", "record"])
def test_what_was_done_otherwise_is_done_again(place, what):
    run(ready(place))
    options = {}
    if what == "data":
        (place / "one/test/a/more.png").write_bytes(next((place / "two/test/a").iterdir()).read_bytes())
    elif what == "seed":
        options = {"seed": 1}
    elif what == "leaks":
        options = {"leaks": "drop"}
    elif what == "card":
        text = (place / "mine.toml").read_text().replace("k = [3, 5]", "k = [3, 6]")
        (place / "mine.toml").write_text(text)
    else:
        for path in (place / "results").glob("knn@dino*.json"):
            path.write_text(json.dumps({"schema_version": 99}))
    both = what in ("seed", "leaks")
    assert states(ready(place, **options).plan()) == [
        "to run",
        "to run",
        "skipped",
        "to run" if both else "done before",
    ]


def test_a_record_of_other_weights_is_not_taken(place):
    run(ready(place))
    made = ready(place)
    from dataclasses import replace

    other = replace(model(), weights_sha256="0" * 64)
    settings = Settings(bank_home=place / "banks", num_workers=0, device="cpu")
    made = Suite(made.card, lambda layer: other, settings=settings, output=place / "results")
    plan = made.plan()
    assert states(plan)[0] == "to run"
    # It opens at the pooled layer, whatever was asked for.
    assert (plan[2].state, plan[2].reason) == ("skipped", "net has no projection layer")


def test_stopping_keeps_what_is_done(place):
    with pytest.raises(KeyboardInterrupt):
        run(ready(place), stop_at=3)
    assert states(ready(place).plan()) == ["done before", "to run", "skipped", "to run"]


def test_means_are_over_all_entries_or_none(place):
    made = ready(place)
    steps, _ = run(made)
    ((average, score, count),) = made.averages(steps)
    assert (average.name, score, count) == ("Avg @3", None, 2)
    whole = made.card.model_copy(update={"entries": (made.card.entries[0], made.card.entries[3])})
    made = ready(place, whole)
    steps, _ = run(made)
    ((_, score, count),) = made.averages(steps)
    values = [
        score.value
        for step in steps
        for score in step.record.scores
        if score.metric == "top1" and score.settings["k"] == 3
    ]
    assert len(values) == 2
    assert (score.value, count) == (pytest.approx(np.mean(values)), 2)


def test_a_published_mean_stands_beside(place, monkeypatch):
    """The poster's Avg @20, for a model of its name."""
    from dataclasses import replace

    from carp_eval.cards import loading

    (table,) = [table for table in loading.published() if "Transfer" in table.table]
    row = table.rows[0]
    named = replace(model(), name=row.model)
    card = read("transfer-knn")
    entries = tuple(
        entry.model_copy(update={"dataset": f"folder:{place}/one", "changes": {"k": [10, 20]}})
        for entry in card.entries[:2]
    )
    settings = Settings(bank_home=place / "banks", num_workers=0, device="cpu")
    made = Suite(
        card.model_copy(update={"entries": entries}),
        lambda layer: named,
        settings=settings,
        output=place / "out",
    )
    steps, _ = run(made)
    means = {average.name: score for average, score, _ in made.averages(steps)}
    assert means["Avg @100"] is None
    (known,) = means["Avg @20"].published
    assert known.value == row.values["mean_k20"]
    assert known.delta == pytest.approx(means["Avg @20"].value - known.value, abs=1e-3)


def test_the_plan_says_what_is_missing_and_how_to_get_it(place):
    card = read("transfer-knn")
    plan = ready(place, card).plan(look_for_data=True)
    assert states(plan) == ["missing"] * 8
    assert "hf download" in plan[0].reason
    assert states(ready(place).plan(look_for_data=True)) == ["to run", "missing", "skipped", "to run"]


def test_an_entry_without_a_data_set_says_so(place):
    (step,) = ready(place, chosen(read("quick"), ["cluster"])).plan()
    assert step.state == "failed"
    assert "-d" in step.reason
    (step,) = ready(place, chosen(read("quick"), ["cluster"]), dataset="digits").plan()
    assert (step.state, step.dataset) == ("to run", "digits")


def test_some_entries_are_chosen_by_what_they_are():
    card = read("robustness")
    assert [entry.queries for entry in chosen(card, ["imagenet-r", "*-a"]).entries] == [
        "imagenet-r",
        "imagenet-a",
    ]
    assert len(chosen(read("quick"), ["linear", "knn@dino"]).entries) == 3
    assert chosen(card, []) is card
    assert chosen(read("transfer-knn"), ["pets"]).averages == ()
    with pytest.raises(UnknownNameError, match="Did you mean cluster"):
        chosen(read("quick"), ["clusters"])


def test_the_record_lists_the_records(place):
    made = ready(place)
    steps, _ = run(made)
    found = suite_record.record("mine.toml", made, steps)
    path = suite_record.save(found, made.folder)
    content = json.loads(path.read_text())
    assert [row["state"] for row in content["rows"]] == states(steps)
    assert content["rows"][0]["record"] == str(steps[0].path)
    assert content["rows"][0]["scores"][0]["name"] == "top1 (k = 3)"
    assert content["averages"] == [{"name": "Avg @3", "score": None, "entries": 2}]
    # In a folder of its own: every file beside the records is a record.
    assert path.parent == made.folder / "suites"


def test_checkpoints_are_those_that_were_kept(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(CheckpointError):
        checkpoints(tmp_path)
    for name in ("epoch-0010.pt", "epoch-0002.pt", "last.pt"):
        (folder / name).write_text(name)
    assert checkpoints(tmp_path) == {
        "2": folder / "epoch-0002.pt",
        "10": folder / "epoch-0010.pt",
        "last": folder / "last.pt",
    }
    (folder / "last.pt").unlink()
    (folder / "last.pt").hardlink_to(folder / "epoch-0010.pt")
    assert list(checkpoints(tmp_path)) == ["2", "10"]
