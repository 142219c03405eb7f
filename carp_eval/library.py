"""The public functions: load a model, extract features, evaluate. `import carp_eval` gives their names.

import carp_eval
model = carp_eval.load("torchvision:resnet50")
bank = carp_eval.extract(model, "images:photos")
near = bank.search(carp_eval.extract(model, ["query.jpg"]), k=5)
result = carp_eval.evaluate(model, "knn@dino", dataset="cifar10")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from carp_eval.cards import loading
from carp_eval.checkpoints import opening as models
from carp_eval.checkpoints.opening import Branch, Layer
from carp_eval.data import opening
from carp_eval.data.given import GivenImages
from carp_eval.data.images import Images
from carp_eval.data.loading import batches
from carp_eval.data.preprocessing import Preprocessing, for_model
from carp_eval.data.skipping import SkippedImages
from carp_eval.errors import UsageError
from carp_eval.evaluation import running
from carp_eval.evaluation.job import Settings
from carp_eval.features.bank import Bank, Dtype, Precision
from carp_eval.features.extraction import forward
from carp_eval.features.extraction import running as extraction
from carp_eval.features.extraction.running import Progress
from carp_eval.features.extraction.views import PLAIN, Views, seen
from carp_eval.models.model import Model
from carp_eval.results import Result

GivenImage = str | Path | Image.Image


def load(
    model: str | Path | nn.Module | None = None, *, branch: Branch | None = None, layer: Layer = "pool"
) -> Model:
    """Load a model, frozen and in evaluation mode.

    Args:
        model: As `carp -m` spells it (a run folder, a checkpoint file, a zoo name, `hf:USER/NAME`, `timm:NAME`,
            `torchvision:NAME`, ...), or a network that maps images `[n, 3, 224, 224]`, normalised by ImageNet's mean
            and deviation, to features `[n, d]`; of other input, give what `checkpoints.opening.wrap` makes of it to the
            functions below. None is the run that was trained last.
        branch: `teacher` or `student`, of a model with both; None is the one that its makers judge.
        layer: `pool`, the trunk's pooled output, or `projection`, the head's.

    Raises:
        CarpError: If there is no such model, or its weights are missing, unreadable or do not fit.
    """
    if isinstance(model, nn.Module):
        if branch is not None or layer != "pool":
            raise UsageError("a network of Python is taken as it is: leave branch and layer out")
        return models.wrap(model, name=type(model).__name__)
    return models.open_model(None if model is None else str(model), branch=branch, layer=layer)


@overload
def extract(
    model: Model | nn.Module | str | Path,
    images: str | Path,
    *,
    split: str = ...,
    preprocessing: str = ...,
    dtype: Dtype = ...,
    precision: Precision = ...,
    views: Views = ...,
    batch_size: int = ...,
    num_workers: int | None = ...,
    device: str | None = ...,
    data_root: Path | None = ...,
    bank_home: Path | None = ...,
    skip_bad: bool = ...,
    progress: Progress | None = ...,
) -> Bank: ...


@overload
def extract(
    model: Model | nn.Module | str | Path,
    images: Sequence[GivenImage],
    *,
    preprocessing: str = ...,
    precision: Precision = ...,
    views: Views = ...,
    batch_size: int = ...,
    num_workers: int | None = ...,
    device: str | None = ...,
    progress: Progress | None = ...,
) -> Float[Tensor, "image dim"]: ...


def extract(
    model: Model | nn.Module | str | Path,
    images: str | Path | Sequence[GivenImage],
    *,
    split: str = "train",
    preprocessing: str = "knn@dino",
    dtype: Dtype = "float16",
    precision: Precision = "float32",
    views: Views = PLAIN,
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str | None = None,
    data_root: Path | None = None,
    bank_home: Path | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Bank | Float[Tensor, "image dim"]:
    """Extract features: of a data set or a folder into a bank on disk, of a list of images into a tensor.

    A bank that is there already is used again, and an extraction that was stopped goes on.

    Args:
        model: What `load` returned or would take.
        images: A data set as `carp -d` spells it, `images:FOLDER` for photographs without classes among them; or that
            folder as a Path; or a list of files and of PIL's images.
        split: Which split of a data set; photographs without classes are `train`.
        preprocessing: The protocol card whose resize and crop are used.
        dtype: How a bank stores features; a tensor is float32 always.
        precision: `bf16` runs the network in bfloat16 autocast.
        views: How each image is seen: `features.views.Views(flip=True, scales=(1.0, 1.4))` gives the mean over four.
        batch_size: Images in a forward pass.
        num_workers: Processes that load images; None is from the cores.
        device: A torch device; None takes a GPU if there is one.
        data_root: Folder that holds named data sets.
        bank_home: Folder that holds banks; None is `$CARP_HOME/banks`.
        skip_bad: Whether unreadable images are left out of a bank, which lists them as `skipped`.
        progress: Is told of images done, and of how many.

    Returns:
        A `Bank`, or features `[n, d]` in the order of the list.

    Raises:
        CarpError: If model or data are not there, or an image cannot be read.
    """
    opened = model if isinstance(model, Model) else load(model)
    prepared = for_model(loading.preprocessing(preprocessing), opened.input)
    if isinstance(images, str | Path):
        spelling = f"images:{images}" if isinstance(images, Path) else images
        return extraction.extract(
            opened,
            opening.open_images(spelling, split, data_root=data_root),
            prepared,
            dtype=dtype,
            precision=precision,
            views=views,
            batch_size=batch_size if prepared.gives_one_size else 1,
            num_workers=num_workers,
            device=device,
            bank_home=bank_home,
            skip_bad=SkippedImages() if skip_bad else None,
            progress=progress,
        )
    if skip_bad:
        raise UsageError("of a list of images none is skipped: each has its row. Leave skip_bad out")
    return _features(
        seen(opened, views),
        GivenImages(images),
        prepared,
        precision=precision,
        batch_size=batch_size if prepared.gives_one_size else 1,
        num_workers=num_workers,
        device=device,
        progress=progress,
    )


def evaluate(
    model: Model | nn.Module | str | Path | None,
    protocol: str = "knn@dino",
    *,
    dataset: str | None = None,
    queries: str | None = None,
    device: str | None = None,
    data_root: Path | None = None,
    skip_bad: bool = False,
    output: Path | None = None,
    seed: int = 0,
    **changes: Any,
) -> Result:
    """Score a model by a named protocol, and keep the record.

    Args:
        model: What `load` returned or would take; None is the run that was trained last.
        protocol: `KIND@VARIANT`, or a path to a card that ends in `.toml`.
        dataset: The data set, as `carp -d` spells it; None is the one the model was trained on.
        queries: Another data set whose images are scored; None scores its own.
        device: A torch device; None takes a GPU if there is one.
        data_root: Folder that holds named data sets.
        skip_bad: Whether unreadable images are counted and left out.
        output: Folder of the record; None is the model's run, or `results`.
        seed: Of whatever the protocol draws.
        changes: Values of the card to change, by key: `k=[5, 20]`.

    Returns:
        The record: `result.scores` are in percent, with intervals and what was published.

    Raises:
        CarpError: If model, card and data are not there or do not fit.
    """
    card = loading.protocol_named(protocol, changes)
    opened = model if isinstance(model, Model) else _at(model, card.layer)
    record, _ = running.evaluate(
        opened,
        card,
        dataset=dataset,
        queries=queries,
        settings=Settings(data_root=data_root, device=device, skip_bad=skip_bad),
        output=output,
        seed=seed,
    )
    return record


def _at(model: nn.Module | str | Path | None, layer: Layer) -> Model:
    return load(model) if isinstance(model, nn.Module) else load(model, layer=layer)


def _features(
    model: Model,
    images: Images,
    preprocessing: Preprocessing,
    *,
    precision: Precision,
    batch_size: int,
    num_workers: int | None,
    device: str | None,
    progress: Progress | None,
) -> Float[Tensor, "image dim"]:
    found = torch.empty(len(images), model.feature_dim)
    loaded = batches(images, preprocessing, batch_size=batch_size, num_workers=num_workers)
    done = 0
    target = forward.choose_device(device)
    for part, index in forward.forward(model.network, loaded, device=target, precision=precision):
        found[index] = part
        done += len(index)
        if progress is not None:
            progress(done, len(images))
    return found
