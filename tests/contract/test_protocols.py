"""Every card in `protocols/` runs end to end: from its name to a record on disk."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from carp_eval import results
from carp_eval.cards import loading, shelf
from carp_eval.cards.cluster import LloydCard, MiniBatchCard
from carp_eval.cards.copydays import CopiesCard, CopydaysCard
from carp_eval.cards.fewshot import SvmFewshotCard
from carp_eval.cards.fewshot_probe import FewshotProbeCard
from carp_eval.cards.finetune import FinetuneCard
from carp_eval.cards.knn import KnnCard
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.cards.linear import AugmentedLinearCard, CachedLinearCard, LogregCard
from carp_eval.cards.retrieval import LandmarkRetrievalCard, RetrievalCard
from carp_eval.cards.voc07 import Voc07Card
from carp_eval.checkpoints.opening import open_model
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.runners import RUNNERS
from carp_eval.evaluation.running import evaluate
from carp_eval.models.model import weights_sha256
from tests.evaluation import copydays_scene, landmarks_scene, voc_scene

CARDS = shelf.names(shelf.PROTOCOLS)
DIGITS, VOC, LANDMARKS, COPYDAYS = "digits", "voc", "landmarks", "copydays"

# What a card of each kind is shown, and what is changed so that it is done in a second.
TRAINING = {"epochs": 2, "batch_size": 32, "schedule": "constant", "milestones": [], "warmup_epochs": 0}
SCENES: dict[type, tuple[str, dict[str, Any]]] = {
    AugmentedLinearCard: (DIGITS, TRAINING),
    CachedLinearCard: (DIGITS, {"epochs": 2, "batch_size": 16}),
    CopiesCard: (DIGITS, {"num_originals": 8, "num_backgrounds": 4}),
    CopydaysCard: (COPYDAYS, {}),
    FewshotProbeCard: (DIGITS, TRAINING | {"n": [1, 4]}),
    FinetuneCard: (DIGITS, TRAINING | {"fraction": 0.1, "images_per_class": None}),
    KnnCard: (DIGITS, {"k": [5, 20]}),
    LabelFreeCard: (DIGITS, {"pairs": 10}),
    LandmarkRetrievalCard: (LANDMARKS, {"k": [1]}),
    LloydCard: (DIGITS, {"restarts": 2, "iterations": 5, "clusters": 4}),
    LogregCard: (DIGITS, {"number": 3}),
    MiniBatchCard: (DIGITS, {"restarts": 2, "clusters": 4}),
    RetrievalCard: (DIGITS, {}),
    SvmFewshotCard: (VOC, {"n": [1, 2], "draws": 2, "negatives": 2, "costs": [0.1, 1.0]}),
    Voc07Card: (VOC, {}),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, digit_folder) -> dict[str, str]:
    root: Path = tmp_path_factory.mktemp("scenes")
    made = {"digits": f"folder:{digit_folder}"}
    for name, scene in (("voc", voc_scene), ("landmarks", landmarks_scene), ("copydays", copydays_scene)):
        (root / name).mkdir()
        made[name] = scene.make(root / name)
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_there_are_cards_and_every_kind_of_card_is_shown_something():
    assert len(CARDS) > 30
    assert set(SCENES) == set(RUNNERS)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_runs_from_its_name_to_a_record(name, places, home, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(home))
    kind, _, variant = name.partition("@")
    plain = loading.protocol_card(kind, variant)
    assert (plain.kind, plain.variant) == (kind, variant)
    assert plain.summary
    assert plain.source
    scene, changes = SCENES[type(plain)]
    card = loading.protocol_card(kind, variant, changes)
    model = open_model("random:digits", layer=card.layer)
    record, path = evaluate(
        model, card, dataset=places[scene], settings=Settings(num_workers=0), output=tmp_path
    )
    assert record.scores
    assert len({(score.metric, *sorted(score.settings.items())) for score in record.scores}) == len(
        record.scores
    )
    assert all(score.low is None or score.low <= score.value + 1e-9 for score in record.scores)
    assert results.load(path) == record
    assert record.variant == variant
    predictions = pq.read_table(path.with_suffix(".parquet"))
    assert predictions.num_rows == 0 or {"index", "key"} <= set(predictions.column_names)
    # Frozen means frozen: what was judged is what was opened.
    assert weights_sha256(model.network.state_dict()) == model.weights_sha256
    assert not model.network.training
    assert not list((home / "unfinished").glob("*.pt"))
