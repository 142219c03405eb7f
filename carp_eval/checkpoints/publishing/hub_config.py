"""`config.json` of a published model: what timm and transformers read, and under one key of its own what we read.

timm and transformers take a folder for theirs by `architecture` and `pretrained_cfg`. A network that they cannot build
gets neither: a config that says `resnet50` of another network would load without a word, as another network.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

from carp_eval.cards import loading
from carp_eval.cards.checkpoint import CheckpointCard, InputCard
from carp_eval.cards.frozen import Frozen
from carp_eval.checkpoints.publishing.shape import TrunkShape
from carp_eval.data.preprocessing import SMALLEST_CROPPED_SIZE
from carp_eval.errors import CheckpointError

NAME = "config.json"
KEY = "carp"
VERSION = 1

CROP_SHARE = 0.875
# A ResNet's last map is this many times smaller than its input.
STRIDE = 32
# Of the unknown type transformers says so; without one it may guess from the folder's name.
OWN_TYPE = "carp-eval"


class HubRecord(Frozen):
    """What we say of a published model.

    Attributes:
        version: Of this record.
        package_version: The release that wrote it.
        name: The model, as its folder on the Hub is called.
        trunk: What the weights must be filled into.
        feature_dim: Width of its features.
        weights_sha256: Hash of the weights' content (`models.model.weights_sha256`).
        input: What the model owns of preprocessing.
        branch: `teacher`, `student`, or empty where there was only one.
        layer: Which output the features are.
        method: How it was trained; empty where nobody told.
        dataset: What it was trained on, as `-d` spells it; None where nobody told.
        recipe: The file of the training's recipe, where there is one.
        licence: As whoever published it gave it; empty where it is unknown.
        card: What its makers and the zoo said of it.
        files: Every file of the folder, by path.
    """

    version: int = VERSION
    package_version: str
    name: str
    trunk: TrunkShape
    feature_dim: int
    weights_sha256: str
    input: InputCard
    branch: str = ""
    layer: str = "pool"
    method: str = ""
    dataset: str | None = None
    recipe: str | None = None
    licence: str = ""
    card: CheckpointCard | None = None
    files: tuple[str, ...] = ()


def package_version() -> str:
    """Return the release that this is."""
    return metadata.version("carp-eval")


def config(record: HubRecord) -> dict[str, Any]:
    """Return the whole of a published model's config.json."""
    ours = {KEY: record.model_dump(mode="json")}
    architecture = record.trunk.timm_name
    if architecture is None:
        return {"model_type": OWN_TYPE, **ours}
    channels = record.trunk.channels
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": record.feature_dim,
        "global_pool": "avg",
        **({"model_args": {"in_chans": channels}} if channels != 3 else {}),
        "pretrained_cfg": _pretrained(record),
        **ours,
    }


def read(folder: Path) -> HubRecord | None:
    """Read what we said of a published model; None where its config.json is someone else's.

    Raises:
        CheckpointError: If there is no config.json, or what we said is damaged or of a later version.
        CardError: If the file is not a JSON object.
    """
    path = folder / NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} is no published model: it has no {NAME}")
    content = loading.read_json(path).get(KEY)
    if content is None:
        return None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise CheckpointError(
            f"{path} describes the model in version {version!r}; this release reads version {VERSION}: use the "
            "release that wrote it, or a later one"
        )
    return loading.check(HubRecord, content, where=f"{path}, {KEY!r}")


def _pretrained(record: HubRecord) -> dict[str, Any]:
    """Return timm's part. An unknown key in it is an error in timm."""
    side = record.input.native_size
    small = side < SMALLEST_CROPPED_SIZE
    pooled = -(-side // STRIDE)
    return {
        "tag": (record.method or "carp-eval").lower(),
        "custom_load": False,
        "input_size": [record.trunk.channels, side, side],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 1.0 if small else CROP_SHARE,
        "crop_mode": "center",
        "mean": list(record.input.mean),
        "std": list(record.input.std),
        "num_classes": 0,
        "pool_size": [pooled, pooled],
        "first_conv": "conv1",
        "classifier": "fc",
        "license": record.licence.lower() or "unknown",
    }
