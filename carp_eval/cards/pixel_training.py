"""What the cards of protocols that train on images share, whether the trunk is frozen or not."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.protocol import ProtocolCard

Probability = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class PixelTrainingCard(ProtocolCard):
    """Training of a linear head on random crops, scored on centre crops.

    A crop has the size of the preprocessing's centre crop. Learning rates change from epoch to epoch, as in all the
    sources, and stay within one. An epoch's last batch is as small as it comes.

    Attributes:
        optimiser: SGD, or LARS: SGD whose rate is scaled by each tensor's norm over that of its gradient.
        momentum: Of the velocity.
        nesterov: Whether SGD looks ahead.
        weight_decay: Added to the gradient, times the weight.
        trust: LARS's coefficient.
        adapt_biases: Whether LARS scales, and decays, biases and norms like other tensors; otherwise it does neither.
        batch_size: Images in a step, over all processes.
        epochs: Passes over the images.
        schedule: How the rate falls: as a cosine to zero, in steps, or not.
        milestones: Epochs after which the rate falls, where it falls in steps.
        decay: What it is multiplied by then.
        warmup_epochs: Epochs over which the rate first rises in equal steps.
        lr_scaling: Whether the rates of the card are for 256 images, and grow with the batch.
        crop_scale: Share of the image's area that a crop takes.
        crop_ratio: Width over height of the crop.
        crop_interpolation: How the crop's pixels are resampled.
        flip: Chance of a mirror image.
        head_init: How the head's weights start: from a normal of deviation 0.01 with biases at zero, uniformly within
            one over the square root of the features (PyTorch's default), or all at zero.
        tell_pretraining: Whether scores say what the model was pretrained on, as tables of transfer do.
    """

    optimiser: Literal["sgd", "lars"]
    momentum: Momentum
    nesterov: bool = False
    weight_decay: NonNegativeFloat
    trust: PositiveFloat = 0.001
    adapt_biases: bool = False
    batch_size: PositiveInt
    epochs: PositiveInt
    schedule: Literal["constant", "cosine", "steps"]
    milestones: tuple[PositiveInt, ...] = ()
    decay: PositiveFloat = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    lr_scaling: Literal["none", "batch/256"] = "none"
    crop_scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (0.75, 4 / 3)
    crop_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: Probability = 0.5
    head_init: Literal["normal", "uniform", "zeros"] = "normal"
    tell_pretraining: bool = False

    @model_validator(mode="after")
    def _can_be_run(self) -> "PixelTrainingCard":
        if self.preprocessing.crop is None or self.preprocessing.squash is not None:
            raise ValueError(
                "preprocessing.crop must be given, and squash left out: random crops take its size"
            )
        if (self.schedule == "steps") != bool(self.milestones):
            raise ValueError("milestones are given where, and only where, the schedule is steps")
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise ValueError("nesterov needs SGD with momentum")
        return self
