"""How a published model is used: in timm, in transformers, in carp, and its linear heads."""

import json
from collections.abc import Mapping

from carp_eval.checkpoints.publishing.hub_config import HubRecord
from carp_eval.checkpoints.publishing.markdown import block, code, escape

TIMM = """
import timm, torch
from PIL import Image

model = timm.create_model({spelled}, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = Image.open("photo.jpg").convert({mode})
with torch.inference_mode():
    features = model(transform(image)[None])  # 1 x {dim}
"""

TRANSFORMERS = """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained({name})
model = AutoModel.from_pretrained({name}).eval()
image = Image.open("photo.jpg").convert({mode})
with torch.inference_mode():
    features = model(**processor(image, return_tensors="pt")).pooler_output  # 1 x {dim}
"""

CARP = """
carp pull {spelled}
carp eval knn --k 20 -m {spelled} -d {data}
carp extract -m {spelled} -d images:photos
"""

CARP_PYTHON = """
import carp_eval

features = carp_eval.extract({spelled}, ["photo.jpg"])  # 1 x {dim}, prepared as the model wants it
"""

SCALED = {
    "plain": "features",
    "unit": "torch.nn.functional.normalize(features, dim=1)",
    "standardised": '(features - head["mean"]) / head["scale"]',
}

HEAD = """
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

head = load_file(hf_hub_download({name}, {path}))
logits = ({scaled}).to(head["weight"]) @ head["weight"].T + head["bias"]
"""

EXTRAS = {
    "head.safetensors": "`head.safetensors` holds the projection head and what else was trained above the trunk; the "
    "recipe in its metadata rebuilds them.",
    "bank/bank.json": "`bank/` holds features already extracted, for `carp bank info` and all that reads banks.",
}


def sections(record: HubRecord, probes: Mapping[str, str]) -> list[str]:
    """Return the ways that work for a model.

    Args:
        record: The model.
        probes: What is done to features before each linear head, by the head's path.
    """
    name, spelled = json.dumps(record.name), f"hf:{record.name}"
    filled = {
        "name": name,
        "mode": json.dumps("L" if record.trunk.channels == 1 else "RGB"),
        "dim": record.feature_dim,
    }
    said: list[str] = []
    if record.trunk.timm_name is None:
        said.append(
            "timm and transformers have no network of this shape"
            f"{_why(record)}: only carp-eval loads it. Its `config.json` says nothing that they would take for theirs."
        )
    else:
        said += [
            "With [timm](https://github.com/huggingface/pytorch-image-models):",
            block(TIMM.format(spelled=json.dumps(f"hf-hub:{record.name}"), **filled), "python"),
            "With [transformers](https://github.com/huggingface/transformers), which needs timm too:",
            block(TRANSFORMERS.format(**filled), "python"),
        ]
    said += [
        "With carp-eval, on the command line and in Python:",
        block(CARP.format(spelled=spelled, data=record.dataset or "cifar10"), "bash"),
        block(CARP_PYTHON.format(spelled=json.dumps(spelled), dim=record.feature_dim), "python"),
    ]
    if probes:
        said.append(
            "Linear classifiers that were trained on these features; the metadata of each names its classes:"
        )
    for path, scaling in probes.items():
        filled_head = {"name": name, "path": json.dumps(path), "scaled": SCALED.get(scaling, "features")}
        said += [code(path), block(HEAD.format(**filled_head), "python")]
    return [*said, *(told for file, told in EXTRAS.items() if file in record.files)]


def _why(record: HubRecord) -> str:
    shape = record.trunk
    if shape.architecture == "small":
        return " (carp-eval's own small network)"
    if shape.stem == "small":
        return f" (a {escape(shape.architecture)} with a stem of 3 x 3 at stride 1)"
    return f" ({escape(shape.architecture)}: every channel is wider, the stem's too)"
