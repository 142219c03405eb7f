"""Models, runs and results to publish, small enough for a test."""

import functools
import json

import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from carp_eval import results
from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.checkpoints import runs, training
from carp_eval.data.images import ModelInput
from carp_eval.models import network
from carp_eval.models.model import Model, weights_sha256
from carp_eval.results import Published, Result, Score
from tests.recipes import tiny

SIDE = 32
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def moved(trunk, channels=3):
    """Give every BatchNorm statistics and an affine part that no fresh network has."""
    chance = torch.Generator().manual_seed(3)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=chance)
            module.bias.data.normal_(std=0.3, generator=chance)
    trunk.train()
    with torch.no_grad():
        for _ in range(3):
            trunk(torch.rand(4, channels, SIDE, SIDE, generator=chance))
    return trunk.eval()


def resnet(architecture="resnet18", *, channels=3, stem="imagenet"):
    """Build torchvision's own network, without what this package builds trunks by."""
    torch.manual_seed(0)
    trunk = {"resnet18": resnet18, "resnet50": resnet50}[architecture]()
    if stem == "small":
        trunk.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        trunk.maxpool = nn.Identity()
    elif channels != 3:
        trunk.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    trunk.fc = nn.Identity()
    return moved(trunk, channels)


# Nobody changes this one.
plain = functools.cache(resnet)


def model(trunk=None, *, channels=3, name="a-model", side=SIDE, **changes):
    trunk = plain() if trunk is None else trunk
    with torch.inference_mode():
        width = trunk(torch.zeros(1, channels, side, side)).shape[1]
    content = {
        "name": name,
        "network": trunk,
        "input": ModelInput(native_size=side, mean=MEAN[:channels], std=STD[:channels]),
        "feature_dim": width,
        "weights_sha256": weights_sha256(trunk.state_dict()),
    }
    return Model(**content | changes)


def images(channels=3, side=SIDE, count=3):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
def features(model, given=None):
    return model.network(images(model.input.channels, model.input.native_size) if given is None else given)


def run(folder):
    """Make a run of `carp train` with networks whose BatchNorm has moved, and return its folder."""
    recipe = tiny()
    student, teacher = network.build(recipe, seed=1), network.build(recipe, seed=2)
    for whole in (student, teacher):
        moved(whole.trunk, channels=1)
    checkpoint = training.TrainingCheckpoint(
        recipe=recipe,
        step=5,
        world_size=1,
        student=student.state_dict(),
        teacher=teacher.state_dict(),
        optimiser={},
    )
    training.save(folder / runs.LAST, checkpoint)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2))
    told = {"finished": "2026-11-21T10:00:00+00:00", "versions": {"torch": "9.9"}, "machine": "a | b"}
    (folder / "run.json").write_text(json.dumps(told))
    return folder


def card(**changes):
    content = {
        "version": 1,
        "summary": "A model",
        "method": "SwAV",
        "architecture": "resnet18",
        "feature_dim": 512,
        "epochs": 800,
        "dataset": "cifar10",
        "weights": {"sources": ["https://example.org/swav.pth"], "branches": {"single": {}}},
        "licence": "CC-BY-NC-4.0",
        "licence_note": "not for *sale*",
        "paper": "A paper, 2020",
        "page": "https://example.org/page",
    }
    return CheckpointCard.model_validate(content | changes)


def result(of, **changes):
    """Return a record of a model."""
    content = {
        "protocol": "knn",
        "variant": "dino",
        "card": {},
        "card_sha256": "c" * 64,
        "model": of.name,
        "branch": of.branch,
        "layer": "pool",
        "weights_sha256": of.weights_sha256,
        "dataset": "cifar10",
        "query_dataset": "cifar10",
        "bank_split": "train",
        "query_split": "test",
        "data": {},
        "banks": {},
        "preprocessing": {},
        "counts": {"bank": 50_000, "queries": 10_000},
        "scores": (
            Score(metric="top1", value=66.4, low=66.0, high=66.8, settings={"k": 20}, published=PUBLISHED),
            Score(metric="top5", value=90.123456, settings={"k": 20}),
        ),
        "seed": 5,
        "device": "cpu",
        "seconds": 12.0,
        **results.circumstances(),
        "finished": "2026-11-21T10:00:00+00:00",
        "versions": {"torch": "9.9"},
        "git_commit": "abc",
    }
    return Result.model_validate(content | changes)


PUBLISHED = (
    Published(
        value=66.1, delta=0.3, document="carp-paper", table="Table 1", variant="dino", same_variant=True
    ),
    Published(value=67.6, delta=-1.2, document="page", table="T", variant="", same_variant=False),
    Published(value=60.0, delta=6.4, document="poster", table="T", variant="instdisc", same_variant=False),
)


def saved(record, folder):
    """Write a record, and return it as publishing wants it."""
    path = results.save(record, folder, predictions={"index": [0, 1], "predicted": [1, 1]})
    return path, results.load(path)
