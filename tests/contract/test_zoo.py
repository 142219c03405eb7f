"""Every card in `zoo/` reads the file that its authors publish, and says of it what can be checked."""

import functools
import re
import tomllib
from collections import defaultdict

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet50

from carp_eval.cards import loading, shelf
from carp_eval.cards.published_numbers import numbers_of
from carp_eval.checkpoints import entries
from carp_eval.checkpoints.opening import open_model
from carp_eval.checkpoints.zoo import storing
from tests.contract import released_files
from tests.contract.released_files import MODELS, State

NAMES = shelf.names(shelf.ZOO)
CARDS = {name: loading.checkpoint_card(name) for name in NAMES}
# The first model of each format, in whose place all others of it stand.
OF_EACH_FORMAT = list({form: name for name, (form, _) in reversed(MODELS.items())}.values())

SPDX = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-NC-4.0", "MIT"}
NO_LICENCE = ("CARP", "MIRA")
SOURCES = (
    r"https://(dl\.fbaipublicfiles\.com|storage\.googleapis\.com|download\.pytorch\.org)/[\w./-]+",
    r"https://github\.com/[\w.-]+/[\w.-]+/releases/download/[\w.]+/[\w.]+",
    r"https://www\.dropbox\.com/sh?/[\w/]+/[\w.-]+\?dl=1",
    r"gdrive:[\w-]{33}(/[\w./-]+)?",
    r"hf:[\w.-]+/[\w.-]+/[\w./-]+",
)


@functools.cache
def shapes() -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return what a torchvision trunk's entries look like."""
    with torch.device("meta"):
        state = resnet50().state_dict()
    looks = {
        name: (tensor.shape, tensor.dtype) for name, tensor in state.items() if not name.startswith("fc.")
    }
    assert len(looks) == 318
    return looks


def entries_without_memory(widen: int) -> State:
    """Return a trunk's entries, each new; of a wide trunk, all channels but the picture's are more."""
    made: State = {}
    for name, (shape, dtype) in shapes().items():
        wide = [side * widen for side in shape[:2]] + list(shape[2:])
        if name == "conv1.weight":
            wide[1] = 3
        made[name] = torch.empty(wide, dtype=dtype, device="meta")
    return made


def random_trunk(seed: int) -> State:
    """Return a ResNet-50 whose every entry is drawn, the running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    drawn: State = {}
    for name, (shape, _) in shapes().items():
        if name.endswith("num_batches_tracked"):
            drawn[name] = torch.tensor(1000 + seed)
        elif name.endswith("running_var"):
            drawn[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) == 4:
            drawn[name] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        else:
            middle = 0.6 if name.endswith("weight") else 0.0
            drawn[name] = torch.randn(shape, generator=generator) * 0.1 + middle
    return drawn


def features(network: torch.nn.Module) -> Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        return network.eval()(images)


@pytest.fixture(scope="module")
def trunks() -> list[tuple[State, Tensor]]:
    """Two trunks, each with the features that torchvision's own network has with its entries."""
    first = random_trunk(0)
    network = resnet50()
    network.fc = torch.nn.Identity()
    made: list[tuple[State, Tensor]] = []
    # The second differs in some entries only: a file that shares the others is half as large.
    for state in (first, released_files.sibling(first)):
        network.load_state_dict(state)
        made.append((state, features(network)))
    assert not torch.allclose(made[0][1], made[1][1], rtol=0.1)
    return made


def test_there_is_a_card_for_every_model_and_no_other():
    assert len(NAMES) > 40
    assert set(NAMES) == MODELS.keys()
    assert len(OF_EACH_FORMAT) == 15


@pytest.mark.parametrize("name", NAMES)
def test_the_names_in_a_file_are_mapped_to_the_trunks(name):
    form, _ = MODELS[name]
    card = CARDS[name]
    widen = int(re.search(r"resnet50(?:w(\d))?-", name)[1] or 1)
    assert card.feature_dim == 2048 * widen
    assert tuple(card.weights.branches) == form.branches
    networks = {branch: entries_without_memory(widen) for branch in form.branches}
    content = form.build(networks)
    for branch, entries_card in card.weights.branches.items():
        selected = entries.select(content, entries_card, where=name)
        assert selected.keys() == networks[branch].keys()
        # The very tensors: of this branch, under their own names.
        assert all(selected[key] is tensor for key, tensor in networks[branch].items())


@pytest.mark.parametrize("name", OF_EACH_FORMAT)
def test_a_file_gives_the_features_of_the_trunk_in_it(name, trunks, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    form, _ = MODELS[name]
    networks = {branch: state for branch, (state, _) in zip(form.branches, trunks)}
    file = tmp_path / "file"
    written = networks if form.counts else {branch: uncounted(state) for branch, state in networks.items()}
    released_files.write(form, written, file)
    added = storing.add(name, CARDS[name], file, source="a test")
    assert set(added.origin.branches) == set(form.branches)
    for branch, (_, expected) in zip(form.branches, trunks):
        model = open_model(name) if branch == "single" else open_model(name, branch=branch)
        assert torch.equal(features(model.network), expected)
        assert model.branch == ("" if branch == "single" else branch)
        # What was published is of the network that its makers judge.
        assert (name in model.names) == (branch == next(iter(CARDS[name].weights.branches)))


def uncounted(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_card_says_of_its_file_and_input(name):
    card = CARDS[name]
    form, last = MODELS[name]
    weights = card.weights
    assert all(re.fullmatch("|".join(SOURCES), source) for source in weights.sources)
    assert [source.rpartition("/")[2] for source in weights.sources] == ([last] if last else [])
    assert weights.sources or "in a browser" in weights.by_hand or "folder" in weights.by_hand
    assert weights.member == form.member
    side = {"supervised-resnet50-600ep": 176}.get(name, 160 if name.endswith("-160px") else 224)
    assert card.input.native_size == side
    if form.std is None:
        assert (card.input.mean, card.input.std) == ((0.0,) * 3, (1.0,) * 3)
    else:
        assert (card.input.mean, card.input.std) == ((0.485, 0.456, 0.406), form.std)


def test_no_two_cards_fetch_the_same_file():
    sources = [source for card in CARDS.values() for source in card.weights.sources]
    assert len(sources) == len(set(sources)) == 40


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_method_trunk_and_epochs(name):
    card = CARDS[name]
    method = re.sub(r"[^a-z0-9]+", "-", card.method.lower())
    assert re.fullmatch(rf"{method}-{card.architecture}-{card.epochs}ep(-mc(-160px|-bs256|-full)?)?", name)
    assert card.summary
    assert card.source
    assert card.paper
    assert card.page.startswith("https://")
    assert not card.recipe or loading.recipe(card.recipe)


@pytest.mark.parametrize("name", NAMES)
def test_a_licence_is_one_by_its_spdx_name_and_none_is_made_up(name):
    card = CARDS[name]
    if card.method in NO_LICENCE:
        assert not card.licence
        assert "no licence" in card.licence_note
    else:
        assert card.licence in SPDX
    assert card.publishable == (card.method not in NO_LICENCE)
    if card.licence == "CC-BY-NC-4.0":
        assert "commercial" in card.licence_note


def published_models() -> dict[str, int]:
    """Count the numbers of each model, from the files themselves."""
    counts: dict[str, int] = defaultdict(int)
    for path in shelf.folder(shelf.PUBLISHED).glob("*.toml"):
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["rows"]:
            counts[row["model"]] += len(row["values"])
    return counts


def test_the_numbers_of_a_model_are_found_under_all_its_names():
    counts, tables = published_models(), loading.published()
    found = {}
    for name, card in CARDS.items():
        assert set(card.published_as) <= counts.keys()
        # A card that is called as another one is would show that one's numbers for its own.
        others = set(card.published_as) & set(NAMES)
        assert others == ({"dino-resnet50-800ep-mc"} if name.endswith("-full") else set())
        found[name] = len(numbers_of(tables, {name, *card.published_as}))
        assert found[name] == sum(counts[one] for one in {name, *card.published_as} & counts.keys())
    assert found["carp-resnet50-400ep-mc"] == 2 + 2 + 1 + 12 + 12
    assert found["triplet-resnet50-940ep"] == 1 + 12 + 4 + 12
    assert sum(number > 0 for number in found.values()) == 28
