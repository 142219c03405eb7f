"""Whether a network that was filled gives features that a trained network would."""

from collections.abc import Mapping
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval.cards.checkpoint import Architecture
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError
from carp_eval.models import trunks

# One would not tell whether all look the same; more would tell nothing else.
_IMAGES = 2
# Any size goes through a network that pools its last map; most ResNets shrink theirs to a thirty-second.
_SIDE = 96
# Of a feature's size: what rounding alone may differ by.
_SAME = 1e-5


def features(network: nn.Module, model_input: ModelInput) -> Float[Tensor, "image feature"]:
    """Return a network's features of a few images of noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    # A network of small images may not shrink them further, and one of tokens takes its own size alone.
    side = model_input.native_size if not _pools(network) else min(model_input.native_size, _SIDE)
    noise = torch.randn(_IMAGES, model_input.channels, side, side, generator=generator)
    # Each image is darker than the one before: a network must see more than that all are noise.
    noise += torch.linspace(-1, 1, _IMAGES).view(-1, 1, 1, 1)
    first = next(iter(network.parameters()), None)
    images = noise if first is None else noise.to(first.device, first.dtype)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            return network(images).float().cpu().clone()
    finally:
        network.train(training)


@cache
def untrained_features(architecture: Architecture, model_input: ModelInput) -> Float[Tensor, "image feature"]:
    """Return the features of those images that a trunk gives as it is initialised."""
    return features(trunks.released(architecture), model_input)


def check(
    trunk: nn.Module,
    model_input: ModelInput,
    *,
    where: str,
    before: Float[Tensor, "image feature"] | None = None,
    untrained: bool = False,
) -> None:
    """Refuse a network whose features are those of no trained network.

    Args:
        trunk: The network, filled.
        model_input: What it takes.
        where: What to call the weights in an error.
        before: Features of a network of its kind that was never filled, where there is one.
        untrained: Whether a network as it was initialised will do.

    Raises:
        CheckpointError: If features are not finite, the same for all images, or those of a random initialisation.
    """
    if not untrained and is_untrained(trunk):
        raise CheckpointError(
            f"{where} was never trained: every BatchNorm in it has the mean 0 and variance 1 that it begins with. The "
            "file was saved before training, or its weights were lost on the way; --allow-untrained imports it anyway"
        )
    found = features(trunk, model_input)
    if not found.isfinite().all():
        share = found.isfinite().float().mean().item()
        raise CheckpointError(
            f"{where}: features of a probe batch are not finite ({share:.0%} are): the weights are damaged, or the "
            "training diverged"
        )
    scale = found.abs().max().item()
    if (found - found[:1]).abs().max().item() <= _SAME * scale:
        raise CheckpointError(
            f"{where}: features are the same for every image of a probe batch: the weights are damaged, or the network "
            "has collapsed"
        )
    if before is not None and torch.allclose(found, before, rtol=_SAME, atol=_SAME * scale) and not untrained:
        raise CheckpointError(
            f"{where}: features of a probe batch are those of a random initialisation: the weights did not arrive"
        )


def check_filled(trunk: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Hold every entry of a network against the one that it was filled with, to the bit.

    Raises:
        CheckpointError: If one differs, or was of a type that the network cannot hold without loss.
    """
    for name, value in trunk.state_dict().items():
        given = state[name].to(value.device, value.dtype)
        # As bytes, so that what is no number equals itself.
        if not torch.equal(_bytes(value), _bytes(given)):
            raise CheckpointError(f"{where}: {name} is not in the network as it is in the file")


def is_untrained(network: nn.Module) -> bool:
    """Tell whether a network has BatchNorm, and all of it as it begins."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]  # pyright: ignore[reportPrivateUsage]
    kept = [
        (layer.running_mean, layer.running_var)
        for layer in layers
        if layer.running_mean is not None and layer.running_var is not None
    ]
    return bool(kept) and all(bool((mean == 0).all() and (variance == 1).all()) for mean, variance in kept)


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1).view(torch.uint8)


def _pools(network: nn.Module) -> bool:
    return any(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in network.modules())
