"""Models of the Hub, and of local folders in its layout."""

import re
from pathlib import Path

from carp_eval.cards import loading
from carp_eval.checkpoints import assembling, reading
from carp_eval.checkpoints.assembling import Branch, Layer
from carp_eval.checkpoints.doors import from_file, from_timm, from_transformers
from carp_eval.checkpoints.publishing import getting, hub_config
from carp_eval.errors import CheckpointError
from carp_eval.models.model import Model

CONFIG = hub_config.NAME
_DESCRIPTIONS = (re.escape(CONFIG), re.escape(from_transformers.PREPROCESSOR))
# The same weights in several forms: the first of these that is there.
_WEIGHTS = (
    r"model\.safetensors",
    r"model\.safetensors\.index\.json|model-\d+-of-\d+\.safetensors",
    r"pytorch_model\.bin",
    r"[^/]+\.safetensors",
    r"[^/]+\.(pth|pt|bin|ckpt|tar)",
)
_INDEX = ".json"


def opened(name: str, what: str, *, branch: Branch | None, layer: Layer) -> Model:
    """Open a model of the Hub, fetched if it is not here yet, or of a folder in the Hub's layout.

    Args:
        name: What results should call it.
        what: A folder, or `USER/NAME` with `@` and a branch, a tag or a commit behind it.
        branch: Which of two networks.
        layer: `projection` is an error: what is published is a trunk.

    Raises:
        CheckpointError: If the weights are missing, or are not exactly the network's.
        HubError: If the Hub cannot be reached or refuses.
        UsageError: If it has no such branch or layer, or needs a package that is not installed.
    """
    folder = Path(what).expanduser()
    if what and folder.is_dir():
        return of_folder(name, folder, branch=branch, layer=layer)
    if what.startswith((".", "/", "~")):
        raise CheckpointError(f"there is no folder {what}; a model of the Hub is spelled hf:USER/NAME")
    described = getting.snapshot(what, only=_DESCRIPTIONS)
    pinned = f"{described.repo}@{described.commit}"
    there = (*described.files, *described.left)
    chosen = _choose(list(there), where=pinned)
    snapshot = getting.snapshot(pinned, only=(*_DESCRIPTIONS, *map(re.escape, chosen)))
    note = f"hf:{described.repo} at its commit {described.commit}"
    return of_folder(name, snapshot.folder, branch=branch, layer=layer, chosen=chosen, notes=(note,))


def of_folder(
    name: str,
    folder: Path,
    *,
    branch: Branch | None,
    layer: Layer,
    chosen: list[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Model:
    """Open a model of a folder in the Hub's layout: ours, timm's, transformers' or nothing but weights.

    Args:
        name: What results should call it.
        folder: The folder.
        branch: Which of two networks.
        layer: `projection` is an error: what is published is a trunk.
        chosen: The files of its weights; None looks for them.
        notes: What whoever reads its scores must know.

    Raises:
        CheckpointError: If the weights are missing, or are not exactly the network's.
        UsageError: If it has no such branch or layer, or needs a package that is not installed.
    """
    if chosen is None:
        chosen = _choose(sorted(path.name for path in folder.iterdir() if path.is_file()), where=str(folder))
    weights = [folder / file for file in chosen if not file.endswith(_INDEX)]
    config = loading.read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if hub_config.KEY in config:
        return _ours(name, folder, weights, branch=branch, layer=layer, notes=notes)
    if "architecture" not in config and "model_type" not in config:
        if len(weights) != 1:
            raise CheckpointError(
                f"{name} holds several files of weights and no {CONFIG} that tells them apart: "
                f"{', '.join(chosen)}. Name one: -m {weights[0]}"
            )
        return from_file.opened(weights[0], branch=branch, layer=layer, name=name, notes=notes)
    assembling.check_single(name, branch=branch, layer=layer)
    for file in weights:
        # Damage and code are told of here, in clear words, before another library meets them.
        reading.read(file)
    library = from_timm if "architecture" in config else from_transformers
    return library.of_folder(name, folder, config, notes=notes)


def _ours(
    name: str,
    folder: Path,
    weights: list[Path],
    *,
    branch: Branch | None,
    layer: Layer,
    notes: tuple[str, ...],
) -> Model:
    record = hub_config.read(folder)
    assert record is not None
    assembling.check_pool(name, layer)
    assembling.branch_of((record.branch or "single",), branch, name=name)
    where = str(weights[0])
    model = assembling.of_trunk(
        name,
        record.trunk.build(),
        reading.read(weights[0]),
        model_input=assembling.input_of(record.input),
        where=where,
        branch=record.branch,
        dataset=record.dataset,
        card=record.card,
        notes=notes,
    )
    if model.weights_sha256 != record.weights_sha256:
        raise CheckpointError(
            f"{where} holds other weights than {CONFIG} beside it says (hash {model.weights_sha256[:12]}, not "
            f"{record.weights_sha256[:12]}): one of the two was changed; fetch or push the model again"
        )
    return model


def _choose(names: list[str], *, where: str) -> list[str]:
    """Choose the files that a model is read from."""
    for pattern in _WEIGHTS:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            return found
    raise CheckpointError(
        f"{where} holds no weights: none of {', '.join(names[:8]) or 'no files'} is such a file"
    )
