import pytest

from carp_eval.cards import loading
from carp_eval.cards.knn import KnnCard
from carp_eval.errors import CardError, UnknownNameError, UsageError

KNN = """
version = 1
kind = "knn"
variant = "mine"
summary = "a card of a user's own"
k = [5]
temperature = 0.07
[preprocessing]
resize = 256
crop = 224
interpolation = "bicubic"
"""


@pytest.mark.parametrize("name", loading.names(loading.RECIPES))
def test_every_recipe_is_whole_and_says_where_it_comes_from(name):
    card = loading.recipe(name)
    assert card.summary
    assert card.source


SMALL = [name for name in loading.names(loading.RECIPES) if name.startswith(("digits", "cifar10-5k-"))]


@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_that_anyone_can_run_says_what_it_gives(name):
    expect = loading.recipe(name).expect
    assert expect.score
    assert expect.time
    assert expect.machine


@pytest.mark.parametrize("name", loading.names(loading.PROTOCOLS))
def test_every_protocol_card_is_whole_and_named_after_its_variant(name):
    kind, _, variant = name.partition("@")
    card = loading.protocol_card(kind, variant)
    assert f"{card.kind}@{card.variant}" == name
    assert card.source


def test_there_are_cards():
    assert {"digits", "carp-resnet50-200ep", "carp-resnet50-400ep", "carp-resnet50-800ep"} <= set(
        loading.names(loading.RECIPES)
    )
    assert {"knn@dino", "knn@instdisc", "knn@swav", "cluster@carp"} <= set(loading.names(loading.PROTOCOLS))


def test_a_card_that_extends_another_changes_only_what_it_says(tmp_path):
    (tmp_path / "base.toml").write_text(KNN)
    child = tmp_path / "child.toml"
    child.write_text('extends = "base"\nk = [7]\n[preprocessing]\nresize = 300\n')
    card = loading.protocol_card("knn", str(child))
    assert isinstance(card, KnnCard)
    assert card.k == (7,)
    assert (card.preprocessing.resize, card.preprocessing.crop) == (300, 224)


def test_a_card_of_a_users_own_may_extend_one_of_ours(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "knn@dino"\nvariant = "mine"\nk = [3]\n')
    card = loading.protocol_card("knn", str(mine))
    assert (card.variant, card.k, card.temperature) == ("mine", (3,), 0.07)
    mine.write_text('extends = "knn@dino.toml"\nvariant = "mine"\nk = [3]\n')
    assert loading.protocol_card("knn", str(mine)) == card
    mine.write_text('extends = "knn@dyno"\n')
    with pytest.raises(UnknownNameError, match="Did you mean knn@dino"):
        loading.protocol_card("knn", str(mine))


def test_a_card_that_extends_itself_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b"\n')
    (tmp_path / "b.toml").write_text('extends = "a"\n')
    with pytest.raises(CardError, match="extends itself"):
        loading.read(tmp_path / "a.toml", loading.PROTOCOLS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KNN.replace("temperature", "temprature"), r"no key named 'temprature'. Did you mean temperature"),
        (KNN.replace("0.07", "-1"), r"temperature: .*greater than 0.*got -1"),
        (KNN.replace("crop = 224", "crop = 224\nmean = 0"), r"no key named 'preprocessing.mean'"),
        (KNN.replace("k = [5]", ""), r"k: Field required"),
        (KNN + "oops", "not valid TOML"),
        ("a = " + "[" * 5000, "too deep in one another"),
        (KNN.replace('"mine"', '"../../mine"'), r"variant: .*got '../../mine'"),
        (KNN.replace('"knn"', '"linear"'), "of kind 'linear'; 'knn' was asked for"),
    ],
)
def test_a_broken_card_says_what_is_wrong_and_where(tmp_path, text, expected):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(CardError, match=expected) as caught:
        loading.protocol_card("knn", str(path))
    assert "mine.toml" in str(caught.value)


def test_unknown_names_get_a_hint():
    with pytest.raises(UnknownNameError, match=r"Did you mean .*carp-resnet50-200ep"):
        loading.recipe("carp-resnet50-20ep")
    with pytest.raises(UnknownNameError, match="Did you mean dino"):
        loading.protocol_card("knn", "dyno")
    with pytest.raises(CardError, match="there is no recipe at"):
        loading.recipe("nowhere/mine.toml")


def test_changes_are_read_as_toml_and_checked_against_the_schema():
    changed = loading.recipe(
        "digits", {"schedule.epochs": "3", "teacher.kind": "none", "loss.entropy_weight": "1e-1"}
    )
    assert changed.schedule.epochs == 3
    assert changed.teacher.kind == "none"
    assert changed.loss.entropy_weight == 0.1
    with pytest.raises(CardError, match=r"Did you mean .*schedule.epochs"):
        loading.recipe("digits", {"schedule.epoch": "3"})
    with pytest.raises(UsageError, match="version is a value"):
        loading.recipe("digits", {"version.number": "3"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"partition.block_size": "100000"}, "more than the"),
        ({"partition.block_size": "1"}, "greater than or equal to 2"),
        ({"data.mean": "[0.1, 0.1]"}, "values, as trunk.channels says"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, expected):
    with pytest.raises(CardError, match=expected):
        loading.recipe("digits", changes)


def test_equal_cards_have_equal_fingerprints_and_others_do_not():
    first = loading.protocol_card("knn", "dino")
    assert loading.fingerprint(first) == loading.fingerprint(loading.protocol_card("knn", "dino"))
    assert loading.fingerprint(first) != loading.fingerprint(loading.protocol_card("knn", "dino", {"k": [3]}))


def test_an_option_that_a_variant_has_not_is_no_fault_of_the_card():
    with pytest.raises(
        UsageError, match="linear@cached-grid has no learning_rate to set: leave the option out"
    ):
        loading.protocol_card("linear", "cached-grid", {"learning_rate": 0.1})
    with pytest.raises(CardError, match=r"knn@dino cannot be changed so:\n  k.0: .*greater than 0 \(got 0\)"):
        loading.protocol_card("knn", "dino", {"k": [0]})


def test_a_change_leaves_the_rest_as_the_card_has_it():
    plain, changed = (
        loading.protocol_card("linear", "swav"),
        loading.protocol_card("linear", "swav", {"epochs": 2}),
    )
    assert changed == plain.model_copy(update={"epochs": 2})
    assert changed.leaves_open("bank_split")
