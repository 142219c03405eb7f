"""From the spelling of a model to a frozen network."""

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path

from carp_eval.checkpoints import runs
from carp_eval.checkpoints.assembling import Branch, Layer
from carp_eval.checkpoints.doors.wrapping import wrap
from carp_eval.checkpoints.publishing import hub_config
from carp_eval.errors import CheckpointError, UnknownNameError, UsageError
from carp_eval.models.model import Model

__all__ = ["SPELLINGS", "Branch", "Layer", "open_model", "wrap"]


@dataclass(frozen=True)
class _Door:
    """What opens models of one kind; its module is imported when it is used, for some bring a second of imports.

    Attributes:
        module: In `carp_eval.checkpoints.doors`.
        function: Takes the whole spelling, what is behind its first colon, branch and layer.
    """

    module: str
    function: str = "opened"

    def __call__(self, spelling: str, what: str, *, branch: Branch | None, layer: Layer) -> Model:
        """Import the module, and open the model."""
        module = importlib.import_module(f"carp_eval.checkpoints.doors.{self.module}")
        return getattr(module, self.function)(spelling, what, branch=branch, layer=layer)


_HUB = _Door("from_hub")
_TIMM = _Door("from_timm")


def _timm(spelling: str, what: str, *, branch: Branch | None, layer: Layer) -> Model:
    for place in ("local-dir:", "hf-hub:"):
        if what.startswith(place):
            return _HUB(spelling, what.removeprefix(place), branch=branch, layer=layer)
    return _TIMM(spelling, what, branch=branch, layer=layer)


_OPENERS = {
    "hf": _HUB,
    "pixels": _Door("from_training", "pixels"),
    "random": _Door("from_training", "random"),
    "timm": _timm,
    "torchvision": _Door("from_torchvision"),
}
SPELLINGS = (
    "a run folder, a checkpoint file (of `carp train`, or of others: .pth, .pt, .tar, .safetensors), a name from `carp "
    "zoo list`, hf:USER/NAME[@REVISION] or hf:FOLDER, timm:NAME, torchvision:NAME[/WEIGHTS], random:RECIPE or "
    "random:resnet50 (a network before training), or pixels:RECIPE (its input, flattened)"
)


def open_model(spelling: str | None = None, *, branch: Branch | None = None, layer: Layer = "pool") -> Model:
    """Open a model, ready to turn images into features.

    Args:
        spelling: A run folder, a checkpoint file, a name of the zoo, `hf:USER/NAME[@REVISION]` or `hf:FOLDER`,
            `timm:NAME` or `timm:local-dir:FOLDER`, `torchvision:NAME[/WEIGHTS]`, `random:RECIPE`, `random:ARCHITECTURE`
            or `pixels:RECIPE`, where a recipe is a name, a `.toml` path, a run folder or a checkpoint file; None is the
            last trained run.
        branch: Which of two networks; None is the one that its makers judge. A model that
            has one gives it as the teacher.
        layer: `pool`, the trunk's pooled output, or `projection`, the head's.

    Raises:
        UsageError: If the spelling leads to nothing, nothing was trained yet, or the model has no such branch or layer.
        CheckpointError: If the weights are not on this machine and cannot be had, are unreadable or do not fit.
        HubError: If the Hub cannot be reached or refuses.
    """
    if spelling is None:
        return _of_run(runs.last_folder(), branch=branch, layer=layer)
    kind, colon, rest = spelling.partition(":")
    if colon and kind in _OPENERS:
        return _OPENERS[kind](spelling, rest, branch=branch, layer=layer)
    from carp_eval.checkpoints.doors import from_file, from_zoo

    names = from_zoo.names()
    if spelling in names:
        return from_zoo.opened(spelling, branch=branch, layer=layer)
    path = Path(spelling).expanduser()
    if path.is_dir():
        return _of_run(path, branch=branch, layer=layer)
    if path.exists():
        return from_file.opened(path, branch=branch, layer=layer)
    if colon and difflib.get_close_matches(kind, _OPENERS):
        raise UnknownNameError("kind of model", f"{kind}:", [f"{name}:" for name in _OPENERS])
    if difflib.get_close_matches(spelling, names, n=1, cutoff=0.8):
        raise UnknownNameError("model in the zoo", spelling, names)
    raise UsageError(f"there is no model {spelling!r}. A model is {SPELLINGS}")


def _of_run(folder: Path, *, branch: Branch | None, layer: Layer) -> Model:
    from carp_eval.checkpoints.doors import from_training

    if (folder / hub_config.NAME).is_file() and not (folder / runs.LAST).is_file():
        raise CheckpointError(
            f"{folder} is no trained run: it has no {runs.LAST}. It looks like a folder of the Hub: hf:{folder}"
        )
    return from_training.trained(runs.checkpoint_path(folder), branch=branch, layer=layer)
