"""Files as the authors of each method publish them, built from any trunk: names, wrappers and all, typed here again.

Nothing is read from the cards. `MODELS` says of every model of the zoo what its file is called and how it is built.
"""

import argparse
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]
# A network by its branch: "single", or "teacher" and "student".
Networks = dict[str, State]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def small(*names: str) -> State:
    """Stand for what a file holds beside the trunk: entries whose names alone matter."""
    return {name: torch.full((2, 2), 0.5) for name in names}


def sibling(state: State) -> State:
    """Return a network that would give other features, in place of a key encoder or the like."""
    return state | {"conv1.weight": -state["conv1.weight"], "bn1.bias": state["bn1.bias"] + 1}


def optimiser() -> dict[str, Any]:
    momentum = {number: {"momentum_buffer": torch.full((3,), 0.25)} for number in range(2)}
    return {"state": momentum, "param_groups": [{"lr": 0.6, "nesterov": False, "params": [0, 1]}]}


def carp(networks: Networks) -> dict[str, Any]:
    head = small(
        *(f"module.head.{name}" for name in ("mlp.0.weight", "mlp.1.running_mean", "last_layer.weight_g"))
    )
    return {
        "student": prefixed(networks["student"], "module.backbone.") | head,
        "teacher": prefixed(networks["teacher"], "module.backbone.") | head,
        "optimizer": optimiser(),
        "epoch": 400,
        "args": argparse.Namespace(arch="resnet50", lr=0.45, global_crops_scale=(0.2, 1.0), local_rank=None),
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 12},
    }


def dino_full(networks: Networks) -> dict[str, Any]:
    head = ("head.mlp.0.weight", "head.mlp.1.bias", "head.last_layer.weight_v")
    return {
        "student": prefixed(networks["student"], "module.backbone.")
        | small(*(f"module.{name}" for name in head)),
        # Published without `module.`, unlike the student.
        "teacher": prefixed(networks["teacher"], "backbone.") | small(*head),
        "optimizer": optimiser(),
        "epoch": 800,
        "args": argparse.Namespace(arch="resnet50", teacher_temp=0.07),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def swav(networks: Networks) -> dict[str, Any]:
    head = (
        "projection_head.0.weight",
        "projection_head.1.running_var",
        "projection_head.3.bias",
        "prototypes.weight",
    )
    return prefixed(networks["single"], "module.") | small(*(f"module.{name}" for name in head))


def deepcluster(networks: Networks) -> dict[str, Any]:
    prototypes = (f"prototypes.prototypes{number}.weight" for number in range(3))
    head = ("projection_head.0.weight", "projection_head.3.bias", *prototypes)
    return prefixed(networks["single"], "module.") | small(*(f"module.{name}" for name in head))


def trunk_alone(networks: Networks) -> dict[str, Any]:
    return dict(networks["single"])


def with_classifier(networks: Networks) -> dict[str, Any]:
    return networks["single"] | small("fc.weight", "fc.bias")


def moco_v2(networks: Networks) -> dict[str, Any]:
    query, head = networks["single"], ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")
    return {
        "epoch": 800,
        "arch": "resnet50",
        "state_dict": prefixed(query | small(*head), "module.encoder_q.")
        | prefixed(sibling(query) | small(*head), "module.encoder_k.")
        | {"module.queue": torch.ones(2, 4), "module.queue_ptr": torch.zeros(1, dtype=torch.long)},
        "optimizer": optimiser(),
    }


def moco_v3(networks: Networks) -> dict[str, Any]:
    head = ("fc.0.weight", "fc.1.weight", "fc.1.num_batches_tracked", "fc.3.weight", "fc.4.running_mean")
    return {
        "epoch": 1000,
        "arch": "resnet50",
        "state_dict": prefixed(networks["student"] | small(*head), "module.base_encoder.")
        | prefixed(networks["teacher"] | small(*head), "module.momentum_encoder.")
        | small("module.predictor.0.weight", "module.predictor.4.running_var"),
        "optimizer": optimiser(),
        "scaler": {"scale": 65536.0},
    }


def converted_simclr(networks: Networks) -> dict[str, Any]:
    return {"state_dict": with_classifier(networks)}


def simsiam(networks: Networks) -> dict[str, Any]:
    head = ("fc.0.weight", "fc.1.running_mean", "fc.6.bias", "fc.7.num_batches_tracked")
    return {
        "epoch": 100,
        "arch": "resnet50",
        "state_dict": prefixed(networks["single"] | small(*head), "module.encoder.")
        | small("module.predictor.0.weight", "module.predictor.3.bias"),
        "optimizer": optimiser(),
    }


def infomin(networks: Networks) -> dict[str, Any]:
    heads = ("head.0.weight", "head.2.bias", "head_jig.fc1.weight", "head_jig.fc2.bias")
    return {
        "model": prefixed(prefixed(networks["single"], "encoder.") | small(*heads), "module."),
        "epoch": 800,
    }


def obow(networks: Networks) -> dict[str, Any]:
    return {"network": with_classifier(networks)}


def mira(networks: Networks) -> dict[str, Any]:
    heads = ("projector.0.weight", "projector.1.running_var", "head.weight_g", "head.weight_v")
    online = prefixed(networks["student"], "encoder.") | small(*heads)
    average = prefixed(networks["teacher"], "encoder.") | small(*heads)
    return {
        "epoch": 400,
        "state_dict": prefixed(online, "module.model.") | prefixed(average, "module.ema_model."),
        "optimizer": optimiser(),
        "scheduler": {"last_epoch": 1, "base_lrs": [4.8]},
    }


def triplet(networks: Networks) -> dict[str, Any]:
    return {"state_dict": trunk_alone(networks), "author": "OpenSelfSup"}


class Format(NamedTuple):
    """How one group of authors writes its files.

    Attributes:
        build: Makes a file's content from networks.
        branches: The networks in it, the one that is judged by default first.
        legacy: Whether torch wrote it before its files became zip archives.
        counts: Whether BatchNorm's `num_batches_tracked` is in it.
        member: The file inside, where it is published in an archive.
        std: What the authors divide pixels by, beside ImageNet's means; None where they only scale to [0, 1].
    """

    build: Callable[[Networks], dict[str, Any]]
    branches: tuple[str, ...] = ("single",)
    legacy: bool = False
    counts: bool = True
    member: str = ""
    std: tuple[float, ...] | None = (0.229, 0.224, 0.225)


SWAV_STD = (0.228, 0.224, 0.225)
CARP = Format(carp, ("teacher", "student"))
SWAV = Format(swav, legacy=True, std=SWAV_STD)
DEEPCLUSTER = Format(deepcluster, legacy=True, std=SWAV_STD)
TRUNK = Format(trunk_alone)
DINO_FULL = Format(dino_full, ("teacher", "student"))
MOCO_V2 = Format(moco_v2, legacy=True)
MOCO_V3 = Format(moco_v3, ("student", "teacher"))
SIMCLR = Format(converted_simclr, legacy=True, std=None)
SIMSIAM = Format(simsiam)
BYOL = Format(with_classifier, legacy=True, counts=False)
INFOMIN = Format(infomin, legacy=True)
OBOW_MEMBER = (
    "ImageNetFull_ResNet50_OBoW_full_feature_extractor/tochvision_resnet50_student_K8192_epoch200.pth.tar"
)
OBOW = Format(obow, legacy=True, member=OBOW_MEMBER)
MIRA = Format(mira, ("teacher", "student"))
TRIPLET = Format(triplet, legacy=True)
TORCHVISION_OLD = Format(with_classifier, legacy=True, counts=False)
TORCHVISION = Format(with_classifier)

# Every model of the zoo: how its file is written, and what the last part of its address is.
MODELS: dict[str, tuple[Format, str]] = {
    "barlow-twins-resnet50-1000ep": (TRUNK, "resnet50.pth"),
    "byol-resnet50-1000ep": (BYOL, "gdrive:1nwaOpgmjpiOxJez7gUKQmYEiQIJe5Yss"),
    "carp-resnet50-100ep-mc": (CARP, ""),
    "carp-resnet50-200ep": (CARP, "checkpoint0199.pth"),
    "carp-resnet50-200ep-mc": (CARP, "checkpoint0199.pth"),
    "carp-resnet50-400ep": (CARP, "checkpoint0399.pth"),
    "carp-resnet50-400ep-mc": (CARP, "checkpoint0399.pth"),
    "deepcluster-v2-resnet50-400ep": (DEEPCLUSTER, "deepclusterv2_400ep_2x224_pretrain.pth.tar"),
    "deepcluster-v2-resnet50-400ep-mc-160px": (DEEPCLUSTER, "deepclusterv2_400ep_pretrain.pth.tar"),
    "deepcluster-v2-resnet50-800ep-mc": (DEEPCLUSTER, "deepclusterv2_800ep_pretrain.pth.tar"),
    "dino-resnet50-800ep-mc": (TRUNK, "dino_resnet50_pretrain.pth"),
    "dino-resnet50-800ep-mc-full": (DINO_FULL, "dino_resnet50_pretrain_full_checkpoint.pth"),
    "infomin-resnet50-200ep": (INFOMIN, "InfoMin_200.pth?dl=1"),
    "infomin-resnet50-800ep": (INFOMIN, "InfoMin_800.pth?dl=1"),
    "mira-resnet50-400ep-mc": (MIRA, "mira-mc-400ep.pth.tar?dl=1"),
    "mira-resnet50-800ep": (MIRA, "mira-800ep.pth.tar?dl=1"),
    "moco-v2-resnet50-200ep": (MOCO_V2, "moco_v2_200ep_pretrain.pth.tar"),
    "moco-v2-resnet50-800ep": (MOCO_V2, "moco_v2_800ep_pretrain.pth.tar"),
    "moco-v3-resnet50-1000ep": (MOCO_V3, "r-50-1000ep.pth.tar"),
    "moco-v3-resnet50-100ep": (MOCO_V3, "r-50-100ep.pth.tar"),
    "moco-v3-resnet50-300ep": (MOCO_V3, "r-50-300ep.pth.tar"),
    "obow-resnet50-200ep-mc": (OBOW, "ImageNetFull_ResNet50_OBoW_full_feature_extractor.zip"),
    "pcl-v2-resnet50-200ep": (MOCO_V2, "PCL_v2_epoch200.pth.tar"),
    "sela-v2-resnet50-400ep": (DEEPCLUSTER, "selav2_400ep_2x224_pretrain.pth.tar"),
    "sela-v2-resnet50-400ep-mc-160px": (DEEPCLUSTER, "selav2_400ep_pretrain.pth.tar"),
    "simclr-resnet50-1000ep": (SIMCLR, "resnet50-1x.pth"),
    "simsiam-resnet50-100ep": (SIMSIAM, "checkpoint_0099.pth.tar"),
    "supervised-resnet50-600ep": (TORCHVISION, "resnet50-11ad3fa6.pth"),
    "supervised-resnet50-90ep": (TORCHVISION_OLD, "resnet50-0676ba61.pth"),
    "swav-resnet50-100ep-mc": (SWAV, "swav_100ep_pretrain.pth.tar"),
    "swav-resnet50-200ep-mc": (SWAV, "swav_200ep_pretrain.pth.tar"),
    "swav-resnet50-200ep-mc-bs256": (SWAV, "swav_200ep_bs256_pretrain.pth.tar"),
    "swav-resnet50-400ep": (SWAV, "swav_400ep_2x224_pretrain.pth.tar"),
    "swav-resnet50-400ep-mc": (SWAV, "swav_400ep_pretrain.pth.tar"),
    "swav-resnet50-400ep-mc-bs256": (SWAV, "swav_400ep_bs256_pretrain.pth.tar"),
    "swav-resnet50-800ep-mc": (SWAV, "swav_800ep_pretrain.pth.tar"),
    "swav-resnet50w2-400ep-mc": (SWAV, "swav_RN50w2_400ep_pretrain.pth.tar"),
    "swav-resnet50w4-400ep-mc": (SWAV, "swav_RN50w4_400ep_pretrain.pth.tar"),
    "swav-resnet50w5-400ep-mc": (SWAV, "swav_RN50w5_400ep_pretrain.pth.tar"),
    "triplet-resnet50-940ep": (TRIPLET, "gdrive:19nO2IrT856-0N9BUyZlOrmwafYx-aHNe"),
    "vicreg-resnet50-1000ep": (TRUNK, "resnet50.pth"),
}


def write(form: Format, networks: Networks, path: Path) -> None:
    """Write a file in a format."""
    content = BytesIO() if form.member else path
    torch.save(form.build(networks), content, _use_new_zipfile_serialization=not form.legacy)
    if isinstance(content, BytesIO):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(form.member, content.getvalue())
