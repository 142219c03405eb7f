"""A whole folder for the Hub, made from a model and what was measured of it.

    model.safetensors   the trunk, by torchvision's names
    config.json         what timm, transformers and carp load it by
    README.md           the model card
    recipe.json         how it was trained, of a run of ours
    head.safetensors    projection head and prototypes, if asked for
    results/            the record of each evaluation, its predictions beside it
    probe/              the linear heads that those evaluations have scored
    bank/               extracted features, if asked for
    pictures/           plots

The same model and results give the same bytes, so that pushing them again changes nothing. Of paths on this machine
only the last part goes into it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.checkpoint import CheckpointCard, InputCard
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import runs
from carp_eval.checkpoints.publishing import (
    copied,
    hub_config,
    model_card,
    model_index,
    public,
    shape,
    training_head,
)
from carp_eval.checkpoints.publishing.copied import Copies
from carp_eval.checkpoints.publishing.hub_config import HubRecord
from carp_eval.errors import StorageError, UsageError
from carp_eval.models.model import Model, weights_sha256
from carp_eval.results import Result

WEIGHTS = "model.safetensors"


def prepare(
    model: Model,
    into: Path,
    *,
    name: str,
    head: bool,
    bank: Path | None,
    results: Sequence[tuple[Path, Result]],
    pictures: Sequence[Path],
    licence: str,
) -> list[Path]:
    """Write a whole folder for the Hub.

    Args:
        model: The model, opened at its trunk's output.
        into: The folder; it is made, and must be empty.
        name: What the model is called there: `USER/NAME`.
        head: Whether the head and prototypes of the training go with it.
        bank: A bank of the model's features that goes with it.
        results: What was measured of it, each with the path of its record, beside which predictions and head lie.
        pictures: Plots to show on the card.
        licence: SPDX identifier of the weights' licence; empty where it is unknown.

    Returns:
        The files, in order of their paths.

    Raises:
        UsageError: If the name cannot be, the folder is not empty, or what should go with the model is not its own.
        CheckpointError: If the network is none that could be built again, or a file that goes with it is damaged.
        BankError: If the bank is damaged or of another model.
        StorageError: If the disk refuses.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UsageError(
            f"a model on the Hub is called USER/NAME, of letters, digits, . _ and -; got {name!r}"
        )
    if model.layer != "pool":
        raise UsageError(
            f"what is published is a trunk, at its layer 'pool'; {model.name} was opened at {model.layer!r}"
        )
    copies = Copies.of(model, bank=bank, results=results, pictures=pictures)
    written = {training_head.NAME: training_head.pack(model)} if head else {}
    recipe, run = _training(model)
    trunk = shape.of(model)
    if recipe is not None:
        written[runs.RECIPE] = (recipe.model_dump_json(indent=2) + "\n").encode()
    state = {
        entry: tensor.detach().cpu().contiguous() for entry, tensor in model.network.state_dict().items()
    }
    record = HubRecord(
        package_version=hub_config.package_version(),
        name=name,
        trunk=trunk,
        feature_dim=model.feature_dim,
        weights_sha256=weights_sha256(state),
        input=InputCard(native_size=model.input.native_size, mean=model.input.mean, std=model.input.std),
        branch=model.branch,
        layer=model.layer,
        method=_method(model, recipe),
        dataset=model_index.known_name(model.dataset),
        recipe=None if recipe is None else runs.RECIPE,
        licence=licence.strip(),
        card=None if model.card is None else _released(model.card),
        files=tuple(sorted({hub_config.NAME, model_card.NAME, WEIGHTS, *written, *copies.files})),
    )
    contents = model_card.Contents(
        record, copies.results, recipe, run, pictures=copies.pictures, probes=copies.probes
    )
    _make_empty(into)
    # transformers asks for this entry, and for no other: the writer puts several in an order of chance.
    written[WEIGHTS] = save(state, metadata={"format": "pt"})
    written[hub_config.NAME] = (json.dumps(hub_config.config(record), indent=2) + "\n").encode()
    written[model_card.NAME] = model_card.text(contents).encode()
    for path, content in (written | copies.contents).items():
        with files.replacing(into / path) as beside:
            beside.write_bytes(content)
    for path, source in copies.files.items():
        if path not in copies.contents:
            copied.copy(source, into / path)
    return [into / path for path in record.files]


def _make_empty(into: Path) -> None:
    files.make_folder(into)
    try:
        filled = any(into.iterdir())
    except OSError as error:
        raise StorageError(f"cannot look into {into}: {error.strerror}") from error
    if filled:
        raise UsageError(f"{into} is not empty: what is published is written to a folder of its own")


def _training(model: Model) -> tuple[RecipeCard | None, dict[str, Any]]:
    """Read how a run of ours was trained, and what it says of when and where."""
    if model.folder is None or not (model.folder / runs.RECIPE).is_file():
        return None, {}
    told = model.folder / "run.json"
    recipe = public.plain(runs.read_recipe(model.folder).model_dump(mode="json"))
    run = public.plain(loading.read_json(told)) if told.is_file() else {}
    return loading.as_recipe(recipe, where=str(model.folder / runs.RECIPE)), run


def _released(card: CheckpointCard) -> CheckpointCard:
    """Return a card without the folder that a file was imported from, as older releases wrote it."""
    weights = card.weights.model_copy(update={"by_hand": public.words(card.weights.by_hand)})
    return card.model_copy(update={"weights": weights})


def _method(model: Model, recipe: RecipeCard | None) -> str:
    if model.card is not None:
        return model.card.method
    return "" if recipe is None else recipe.method.upper()
