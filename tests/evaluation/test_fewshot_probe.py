import numpy as np
import pytest
import torch

from carp_eval.cards import loading
from carp_eval.cards.fewshot_probe import FewshotProbeCard
from carp_eval.evaluation import augmented, fewshot_probe
from tests.evaluation import training_scene
from tests.evaluation.training_scene import SMALL, StopError, bytes_of, flattened, job, state_of, stopping


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))


def card(**changes):
    path = loading.folder("protocols") / "fewshot@inat.toml"
    content = loading.read(path, "protocols") | SMALL | {"n": [1, 4, "full"], "milestones": [2]} | changes
    return loading.check(FewshotProbeCard, content, where="inat")


def test_each_number_has_images_a_head_and_scores_of_its_own(tmp_path):
    work = job(tmp_path, card(epochs=30))
    before = bytes_of(work.model.network)
    outcome = fewshot_probe.run(work)
    assert bytes_of(work.model.network) == before
    labels = work.images("train").labels
    chosen = {n: work.opened[f"chosen to train on, {n} of each class"] for n in (1, 4)}
    for n, images in chosen.items():
        assert np.bincount(labels[images.numbers]).tolist() == [n] * 3
    assert set(chosen[1].numbers) < set(chosen[4].numbers)
    assert outcome.counts == {"trained_n1": 3, "trained_n4": 12, "trained_nfull": 50}
    top1 = {score.settings["n"]: score.value for score in outcome.scores if score.metric == "top1"}
    asked = work.images("test").labels
    for n, value in top1.items():
        assert value == pytest.approx(100 * (outcome.predictions[f"predicted_n{n}"] == asked).mean())
    assert top1["full"] > 80


def test_a_head_is_what_a_linear_probe_on_the_chosen_images_comes_to(tmp_path):
    work = job(tmp_path, card(n=[4]))
    fewshot_probe.run(work)
    other = job(tmp_path, training_scene.card("linear@swav", **SMALL | {"weight_decay": 1e-6}))
    alike = other.card.model_copy(update={"schedule": "steps", "milestones": (2,)})
    images = work.opened["chosen to train on, 4 of each class"]
    training = augmented.FrozenTraining(alike, other, images, learning_rate=0.3, place="n = 4")
    training.run(augmented.Kept(other.unfinished()), "head", bar=lambda done, total: None)
    found = state_of(work, "n = 4")
    assert torch.equal(flattened(found), flattened({"modules": {"head": training.head.state_dict()}}))


def test_a_run_that_was_stopped_in_its_second_number_goes_on_there(tmp_path):
    whole = job(tmp_path, card())
    told = fewshot_probe.run(whole)
    wanted = {n: flattened(state_of(whole, f"n = {n}")) for n in (1, 4, "full")}
    whole.unfinished().remove()
    with pytest.raises(StopError):
        fewshot_probe.run(job(tmp_path, card(), progress=stopping("training, n = 4", 20)))
    heard = set()
    resumed = job(tmp_path, card(), progress=lambda name: lambda done, total: heard.add((name, done)))
    assert fewshot_probe.run(resumed).scores == told.scores
    for n, head in wanted.items():
        assert torch.equal(flattened(state_of(resumed, f"n = {n}")), head)
    assert not any(name == "training, n = 1" for name, _ in heard)
    assert min(done for name, done in heard if name == "training, n = 4") > 12
