"""Small files in the formats of the field, from one seeded trunk whose BatchNorm has seen images."""

import argparse
from functools import cache

import torch
from torch import nn
from torchvision.models import resnet18


@cache
def network():
    """A whole torchvision ResNet-18, as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = resnet18(weights=None)
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.1)
                layer.running_var.uniform_(0.5, 2)
                layer.num_batches_tracked.fill_(9)
    return made.eval()


@cache
def follower():
    """The same, a little later."""
    return {name: value * 1.5 if value.is_floating_point() else value for name, value in trunk().items()}


def trunk():
    return {name: value for name, value in network().state_dict().items() if not name.startswith("fc.")}


def under(prefix, state=None):
    return {prefix + name: value for name, value in (trunk() if state is None else state).items()}


def head(*names):
    return {name: torch.ones(3, 2) for name in names}


def images(number=2):
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def features(state=None):
    """What the trunk gives, by torchvision's own network."""
    made = resnet18(weights=None)
    made.fc = nn.Identity()
    made.load_state_dict(state or trunk())
    with torch.inference_mode():
        return made.eval()(images())


ARGS = argparse.Namespace(arch="resnet18", epochs=3)


def every():
    """Return the content of a file in each format, where its trunks lie, and what names the format.

    A place is what it is called, and which of the two trunks lies there.
    """
    whole, first, second = network().state_dict(), trunk(), follower()
    numbered = nn.Sequential(*list(network().children())[:-1]).state_dict()
    pair = {
        "student": under("module.backbone.")
        | head("module.head.mlp.0.weight", "module.head.last_layer.weight"),
        "teacher": under("module.backbone.", second) | head("module.head.mlp.0.weight"),
    }
    one = {"single": first}
    two = {"teacher": second, "student": first}
    return {
        "torchvision": (whole, one, "torchvision's names with a classifier"),
        "DINO": (first, one, "no classifier"),
        "CARP, or DINO whole": (
            {**pair, "optimizer": {"state": {0: head("step")}}, "epoch": 3, "args": ARGS, "fp16_scaler": None},
            two,
            "student and teacher",
        ),
        "SwAV": (
            under("module.") | head("module.projection_head.0.weight", "module.prototypes.weight"), one, "SwAV"
        ),
        "DeepCluster-v2": (
            {"state_dict": under("module.") | head("module.prototypes.prototypes0.weight")}, one, "DeepCluster"
        ),
        "MoCo v2": (
            {
                "state_dict": under("module.encoder_q.", first | head("fc.0.weight"))
                | under("module.encoder_k.", second | head("fc.0.weight"))
                | head("module.queue", "module.queue_ptr"),
                "arch": "resnet18",
            },
            one,
            "MoCo v2",
        ),
        "MoCo v3": (
            {
                "state_dict": under("module.base_encoder.", first | head("fc.0.weight"))
                | under("module.momentum_encoder.", second | head("fc.0.weight"))
                | head("module.predictor.0.weight")
            },
            two,
            "MoCo v3",
        ),
        "SimCLR, converted": ({"state_dict": whole}, one, "torchvision"),
        "SimSiam": (
            {"state_dict": under("module.encoder.", first | head("fc.0.weight")) | head("module.predictor.0.weight")},
            one,
            "SimSiam",
        ),
        "Barlow Twins, whole": (
            {"model": under("module.backbone.") | head("module.projector.0.weight", "module.bn.running_mean")},
            one,
            "Barlow Twins",
        ),
        "InfoMin": (
            {"model": under("module.encoder.") | head("module.head.0.weight", "module.head_jig.0.weight")},
            one,
            "InfoMin",
        ),
        "oBoW": ({"network": whole}, one, "oBoW"),
        "MIRA": (
            {
                "state_dict": under("module.model.encoder.")
                | under("module.ema_model.encoder.", second)
                | head("module.model.head.weight", "module.ema_model.head.weight")
            },
            two,
            "",
        ),
        "VISSL": (
            {
                "classy_state_dict": {
                    "base_model": {
                        "model": {"trunk": under("_feature_blocks."), "heads": head("0.clf.weight")},
                        "meta": {},
                    }
                }
            },
            one,
            "VISSL",
        ),
        "solo-learn": (
            {
                "state_dict": under("backbone.")
                | under("momentum_backbone.", second)
                | head("projector.0.weight", "classifier.bias"),
                "pytorch-lightning_version": "1.6",
            },
            two,
            "Lightning",
        ),
        "lightly": ({"state_dict": under("backbone.", numbered) | head("projection_head.layers.0.weight")}, one, ""),
        "mmselfsup": ({"meta": {"epoch": 3}, "state_dict": under("backbone.") | head("head.weight")}, one, "OpenMMLab"),
        "timm": ({"state_dict": whole, "state_dict_ema": whole | second}, two, ""),
        "old, without counts": (
            {name: value for name, value in first.items() if not name.endswith("num_batches_tracked")}, one, ""
        ),
        "numbered": (numbered, one, ""),
    }  # fmt: skip
