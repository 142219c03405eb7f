"""A run whose trunk is wide opens again: of a narrow stand-in, whose every channel is still twice as many."""

import json

import pytest
import torch

from carp_eval.checkpoints import opening, runs
from carp_eval.models import wide
from tests.recipes import TINY


@pytest.fixture
def carp(carp_in, tmp_path, monkeypatch):
    monkeypatch.setattr(wide, "STEM", 2)
    monkeypatch.setattr(wide, "BLOCKS", (1, 1, 1, 1))
    return carp_in(tmp_path)


def test_a_wide_run_is_trained_gone_on_with_and_scored(carp, tmp_path, digit_folder):
    changes = TINY | {"trunk.architecture": "resnet50w2", "trunk.stem": "small", "schedule.epochs": "1"}
    options = [f"--set={key}={value}" for key, value in changes.items()]
    code, _, told = carp("train", "-d", f"folder:{digit_folder}", "--device", "cpu", *options)
    assert code == 0, told
    (run,) = (tmp_path / "runs").iterdir()
    model = opening.open_model(str(run))
    # Of a stem of 2 x 2 channels, four stages on.
    assert model.feature_dim == 2 * 2 * 8 * 4
    assert model.network.conv1.weight.shape == (4, 1, 3, 3)
    kept = torch.load(run / runs.LAST, weights_only=True)["teacher"]["trunk.layer4.0.conv3.weight"]
    assert torch.equal(model.network.layer4[0].conv3.weight, kept)
    code, out, told = carp("eval", "knn", "--k", "5", "-m", run, "--json", "--device", "cpu")
    assert code == 0, told
    record = json.loads(out)
    assert record["counts"]["bank"] == 96
    assert record["weights_sha256"] == model.weights_sha256
