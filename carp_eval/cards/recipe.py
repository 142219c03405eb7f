"""Recipe cards: a training that can be run, whole."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.frozen import Card, Frozen

Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Shape = Literal["constant", "linear", "cosine"]


class DataCard(Frozen):
    """What is trained on.

    Attributes:
        name: The data set, as `-d` spells it.
        split: The split to train on.
        evaluation_split: The split whose images the online k-NN classifies.
        mean: Mean of each channel in [0, 1], which normalisation subtracts.
        std: Deviation of each channel, which normalisation divides by.
        augment: Where views are made: each image alone in the loader's workers, or whole batches at
            once (small images, which a worker could not deliver fast enough).
    """

    name: str
    split: str = "train"
    evaluation_split: str = "test"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    augment: Literal["per_image", "per_batch"] = "per_image"


class TrunkCard(Frozen):
    """The network whose features are judged.

    Attributes:
        architecture: `resnet50` and `resnet18` are torchvision's; `small` is the quickstart's.
        stem: `imagenet` is 7 x 7 with stride 2 and a max-pool; `small` is 3 x 3 without either.
        channels: Colour channels of the input.
        zero_init_residual: Whether each residual branch starts at zero.
    """

    architecture: Literal["resnet50", "resnet18", "small"]
    stem: Literal["imagenet", "small"] = "imagenet"
    channels: Literal[1, 3] = 3
    zero_init_residual: bool = True


class HeadCard(Frozen):
    """The projection head: dense layers, with BatchNorm and GELU between them (CARP, B.1)."""

    num_layers: PositiveInt = 3
    hidden_dim: PositiveInt = 2048
    output_dim: PositiveInt = 256


class PrototypesCard(Frozen):
    """The prototypes.

    Attributes:
        count: How many, K.
        unit_norm: Whether each has length one.
        teacher: Whether the teacher keeps its own moving average of them or uses the student's.
    """

    count: PositiveInt
    unit_norm: bool = True
    teacher: Literal["ema", "shared"] = "ema"


class PartitionCard(Frozen):
    """How the prototypes are split into blocks (CARP, section 4 and Table 7).

    Attributes:
        kind: `random` draws afresh every step; `constant` takes sequential blocks, once.
        block_size: Prototypes in a block, N_B.
    """

    kind: Literal["random", "constant"] = "random"
    block_size: Annotated[int, Field(ge=2)]


class LossCard(Frozen):
    """The CARP loss (equation 3).

    Attributes:
        convention: `sum` adds the two directions, as equation 3 prints it; `mean` averages over the
            ordered pairs, as the authors' code does: half the consistency, so an entropy weight w
            there is 2w here.
        entropy_weight: Weight of the entropy term at the start.
        final_entropy_weight: Weight at the end; left out, the same.
        entropy_schedule: How the weight goes from one to the other.
    """

    convention: Literal["sum", "mean"] = "sum"
    entropy_weight: NonNegative = 1.0
    final_entropy_weight: NonNegative | None = None
    entropy_schedule: Shape = "constant"


class TeacherCard(Frozen):
    """The slow network.

    Attributes:
        kind: `ema` follows the student; `none` is the siamese ablation of Table 5, where the targets
            are the student's own assignments without gradient.
        momentum: eta at the start; 0 makes the teacher the student of the last step (Table 6).
        final_momentum: eta at the end; left out, the same.
        schedule: How eta goes from one to the other.
    """

    kind: Literal["ema", "none"] = "ema"
    momentum: Probability = 0.99
    final_momentum: Probability | None = None
    schedule: Shape = "constant"


class ViewCard(Frozen):
    """One kind of view of an image: which changes it goes through, and how likely.

    Attributes:
        size: Side of the square view, in pixels.
        count: How many such views of each image.
        to_teacher: Whether the teacher sees them.
        scale: Share of the image's area that a random resized crop takes.
        ratio: Width over height of that crop.
        interpolation: How the crop's pixels are resampled where views are made image by image; batches at once are
            always bilinear.
        rotation: Largest rotation either way, in degrees.
        translation: Largest shift either way, as a share of the side.
        shear: Largest shear either way, in degrees.
        flip: Chance of a mirror image.
        jitter: Strength of brightness, contrast, saturation and hue changes.
        jitter_probability: Chance of that jitter.
        grey: Chance of losing colour.
        blur: Chance of a Gaussian blur.
        blur_sigma: Smallest and largest width of that blur, in pixels of a 224-pixel view.
        solarise: Chance of inverting all values above one half.
        erase: Chance of painting a random rectangle grey.
    """

    size: PositiveInt
    count: PositiveInt = 1
    to_teacher: bool = True
    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (0.75, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    rotation: NonNegative = 0.0
    translation: Probability = 0.0
    shear: NonNegative = 0.0
    flip: Probability = 0.5
    jitter: tuple[NonNegative, NonNegative, NonNegative, Annotated[float, Field(ge=0, le=0.5)]] = (
        0.4,
        0.4,
        0.2,
        0.1,
    )
    jitter_probability: Probability = 0.8
    grey: Probability = 0.2
    blur: Probability = 0.0
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    solarise: Probability = 0.0
    erase: Probability = 0.0


class OptimiserCard(Frozen):
    """How the weights move.

    Attributes:
        name: `lars` is SGD with a layer-wise rate (You et al., 2017).
        lr: Learning rate at the start (after the warm-up), for the recipe's batch size; not scaled again.
        final_lr: Learning rate at the end; left out, the same.
        schedule: How the rate goes from one to the other.
        warmup_epochs: Epochs over which the rate first rises linearly from 0.
        weight_decay: Decay of weights with more than one axis; biases and norms have none.
        momentum: Of SGD and LARS.
        trust: LARS's trust coefficient.
    """

    name: Literal["lars", "sgd", "adamw"]
    lr: PositiveFloat
    final_lr: NonNegative | None = None
    schedule: Shape = "cosine"
    warmup_epochs: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    momentum: Probability = 0.9
    trust: PositiveFloat = 0.001


class ScheduleCard(Frozen):
    """How long, how many at once, and what is kept on the way.

    Attributes:
        epochs: Passes over the data.
        batch_size: Images in a step, over all processes.
        precision: `bf16` runs the networks in bfloat16 autocast; the loss is float32 always.
        checkpoint_epochs: Epochs between checkpoints; each replaces the one before.
        keep_epochs: Epochs between checkpoints that stay; 0 keeps the last alone.
        knn_epochs: Epochs between online k-NN evaluations; 0 for none.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    precision: Literal["float32", "bf16"] = "float32"
    checkpoint_epochs: PositiveInt = 1
    keep_epochs: Annotated[int, Field(ge=0)] = 0
    knn_epochs: Annotated[int, Field(ge=0)] = 0


class ExpectCard(Frozen):
    """What a run of the recipe gives: the score, how long it takes, and on what; empty if nobody measured it."""

    score: str = ""
    time: str = ""
    machine: str = ""


class RecipeCard(Card):
    """A training that can be run: `carp train NAME`."""

    method: Literal["carp"]
    seed: int = 0
    data: DataCard
    trunk: TrunkCard
    head: HeadCard
    prototypes: PrototypesCard
    partition: PartitionCard
    loss: LossCard = LossCard()
    teacher: TeacherCard
    views: Annotated[tuple[ViewCard, ...], Field(min_length=1)]
    optimiser: OptimiserCard
    schedule: ScheduleCard
    expect: ExpectCard = ExpectCard()

    @model_validator(mode="after")
    def _fits(self) -> "RecipeCard":
        if self.partition.block_size > self.prototypes.count:
            raise ValueError(
                f"partition.block_size is {self.partition.block_size}, more than the "
                f"{self.prototypes.count} prototypes there are (prototypes.count)"
            )
        if sum(view.count for view in self.views) < 2:
            raise ValueError("at least two views of an image are needed")
        if not len(self.data.mean) == len(self.data.std) == self.trunk.channels:
            raise ValueError(
                f"data.mean and data.std need {self.trunk.channels} values, as trunk.channels says"
            )
        if not any(view.to_teacher for view in self.views):
            raise ValueError("at least one view must go to the teacher (views.to_teacher)")
        return self
