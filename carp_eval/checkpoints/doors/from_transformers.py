"""Models in the layout of transformers, at the output that stands for the whole image."""

import inspect
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from carp_eval.cards import loading
from carp_eval.checkpoints import assembling
from carp_eval.checkpoints.doors import extras
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError, UsageError
from carp_eval.models.model import Model

PREPROCESSOR = "preprocessor_config.json"

_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    SafetensorError,
)
# What moves from one release or machine to the next, and no feature.
_IDLE = (
    "transformers_version",
    "torch_dtype",
    "dtype",
    "_name_or_path",
    "architectures",
    "_attn_implementation",
)
_CLASS_TOKENS = ("cls_token", "class_embedding")


class WholeImage(nn.Module):
    """A network of transformers whose output for the whole image is its features.

    Attributes:
        network: The network.
    """

    def __init__(
        self, network: nn.Module, call: Callable[[nn.Module, Tensor], Any], take: Callable[[Any], Tensor]
    ) -> None:
        """Wrap a network.

        Args:
            network: The network.
            call: Runs it on images.
            take: From its outputs to features.
        """
        super().__init__()
        self.network = network
        self._call = call
        self._take = take

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of each image."""
        return self._take(self._call(self.network, images))


def of_folder(name: str, folder: Path, config: Mapping[str, Any], *, notes: tuple[str, ...] = ()) -> Model:
    """Open a model in the layout of transformers; code that the folder holds is never run.

    Args:
        name: What results should call it.
        folder: Holds `config.json`, the weights, and mostly `preprocessor_config.json`.
        config: The content of `config.json`.
        notes: What whoever reads its scores must know.

    Raises:
        CheckpointError: If the weights are not exactly the network's, or cannot be read.
        UsageError: If transformers is not installed, or the model does not turn images into features.
    """
    network = _loaded(name, folder)
    call = _caller(network, name=name)
    model_input, told = _input(folder, config)
    side = model_input.native_size
    try:
        with torch.inference_mode():
            outputs = call(network, torch.zeros(1, model_input.channels, side, side))
    except _FAILURES as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{name} does not take images of {side} x {side} pixels: {reason}") from error
    what, take = _pooling(outputs, network, name=name)
    settings = {key: value for key, value in config.items() if key not in _IDLE}
    return assembling.of_library(
        name,
        WholeImage(network, call, take),
        model_input=model_input,
        built=f"transformers {json.dumps(settings, sort_keys=True)}, {what}",
        notes=(*notes, f"its features are {what}, of transformers' {type(network).__name__}", *told),
    )


def _loaded(name: str, folder: Path) -> nn.Module:
    extras.require("transformers", needed_for=name)
    from transformers import AutoConfig, AutoModel

    def load(**options: Any) -> tuple[nn.Module, dict[str, Any]]:
        with torch.random.fork_rng(devices=[]), _quietly():
            # Typed as what it never returns where its loading is asked for.
            return cast(
                Any,
                AutoModel.from_pretrained(
                    folder,
                    config=config,
                    output_loading_info=True,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    local_files_only=True,
                    **options,
                ),
            )

    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if hasattr(config, "mask_ratio"):
            # Masked autoencoders drop most of an image, at random, unless they are told otherwise.
            config.mask_ratio = 0.0
        network, info = load()
        missing = set(info["missing_keys"])
        if missing and all(entry.startswith("pooler.") for entry in missing):
            # The weights of a classifier or of a training without it: what is there is complete.
            network, info = load(add_pooling_layer=False)
    except _FAILURES as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"transformers cannot open {name}: {reason}. Code that comes with a model is not run"
        ) from error
    problems = {
        "missing": sorted(info["missing_keys"]),
        "wrong shape": sorted(map(str, info["mismatched_keys"])),
        "errors": sorted(map(str, info["error_msgs"])),
    }
    if any(problems.values()):
        found = sorted(info["unexpected_keys"])
        listed = "\n".join(f"  {kind}: {', '.join(names[:5])}" for kind, names in problems.items() if names)
        raise CheckpointError(
            f"{name} does not fill the {type(network).__name__} that its config.json describes:\n{listed}"
            + (f"\n  unexpected: {', '.join(found[:5])}" if found else "")
        )
    return network.eval()


@contextmanager
def _quietly() -> Generator[None]:
    """Keep transformers from printing what it loads; what matters of it is told here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _caller(network: nn.Module, *, name: str) -> Callable[[nn.Module, Tensor], Any]:
    """Return how a network is run on images."""
    if getattr(network, "main_input_name", "") == "pixel_values":
        # Where nothing is masked the patches would still be shuffled: the last bits of sums would change at each run.
        return _run_in_order if "noise" in inspect.signature(network.forward).parameters else _run
    if hasattr(network, "get_image_features"):
        return _run_image_part
    raise UsageError(f"{name} is a {type(network).__name__}, which takes no images")


def _run(network: nn.Module, images: Tensor) -> Any:
    return network(pixel_values=images)


def _run_in_order(network: Any, images: Tensor) -> Any:
    patches = network.embeddings.patch_embeddings.num_patches
    order = torch.arange(patches, dtype=images.dtype, device=images.device)
    return network(pixel_values=images, noise=order.expand(len(images), -1))


def _run_image_part(network: Any, images: Tensor) -> Any:
    return network.get_image_features(pixel_values=images)


def _pooling(outputs: Any, network: nn.Module, *, name: str) -> tuple[str, Callable[[Any], Tensor]]:
    """Choose the output that stands for the whole image, and say in words which."""
    if isinstance(outputs, Tensor):
        return "get_image_features", _whole
    if outputs.get("pooler_output") is not None:
        return "pooler_output", _pooler
    tokens = outputs.get("last_hidden_state")
    if tokens is None:
        raise UsageError(
            f"{name} gives {', '.join(outputs)}: neither pooler_output nor last_hidden_state, so nothing tells "
            "which are its features"
        )
    if tokens.ndim == 4:
        return "last_hidden_state, the mean over its places", _mean_of_places
    if any(entry.endswith(_CLASS_TOKENS) for entry in network.state_dict()):
        return "last_hidden_state at the class token", _first_token
    return "last_hidden_state, the mean over its tokens", _mean_of_tokens


def _whole(outputs: Tensor) -> Tensor:
    return outputs


def _pooler(outputs: Any) -> Tensor:
    # Convolutional networks leave the two sides of the map, of length 1.
    return outputs["pooler_output"].flatten(1)


def _mean_of_places(outputs: Any) -> Tensor:
    return outputs["last_hidden_state"].mean(dim=(2, 3))


def _first_token(outputs: Any) -> Tensor:
    return outputs["last_hidden_state"][:, 0]


def _mean_of_tokens(outputs: Any) -> Tensor:
    return outputs["last_hidden_state"].mean(dim=1)


def _input(folder: Path, config: Mapping[str, Any]) -> tuple[ModelInput, tuple[str, ...]]:
    """Read what a folder says of its model's input, and say what it does not say.

    Raises:
        UsageError: If values are brought to another range than [0, 1] before the mean is subtracted.
    """
    vision: Mapping[str, Any] = config.get("vision_config") or {}
    size = config.get("image_size") or vision.get("image_size")
    path = folder / PREPROCESSOR
    if not path.is_file():
        known = assembling.IMAGENET
        side = _side(size) or known.native_size
        return ModelInput(side, known.mean, known.std), (
            f"there is no {PREPROCESSOR}: the model was given ImageNet's mean and deviation, at {side} px",
        )
    told = loading.read_json(path)
    factor = told.get("rescale_factor", 1 / 255)
    if not told.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-3:
        raise UsageError(f"{path} rescales pixels otherwise than to [0, 1], which is not supported")
    channels = config.get("num_channels") or vision.get("num_channels") or 3
    mean, std = (0.0,) * channels, (1.0,) * channels
    if told.get("do_normalize", True):
        mean, std = (
            tuple(float(value) for value in told.get(key, default))
            for key, default in (
                ("image_mean", assembling.IMAGENET.mean),
                ("image_std", assembling.IMAGENET.std),
            )
        )
    crop = told.get("crop_size") if told.get("do_center_crop", False) else None
    side = _side(crop) or _side(size) or _side(told.get("size")) or assembling.IMAGENET.native_size
    return ModelInput(side, mean, std), ()


def _side(size: Any) -> int | None:
    """Return the side of a square from any of the forms in which transformers writes it."""
    if isinstance(size, dict):
        size = next((size[key] for key in ("height", "shortest_edge") if key in size), None)
    if isinstance(size, list):
        size = size[0]
    return int(size) if isinstance(size, int | float) and size > 0 else None
