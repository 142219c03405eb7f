"""Recipe cards: a training that can be run, whole. What one method alone has to say is in the card of that method."""

from typing import Annotated, ClassVar, Literal

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
        augment: Where views are made: `per_image`, each alone in the loader's workers; `on_device`, cut out there and
            their colours changed by whole batches where the networks are, with the same outcome; `per_batch`, whole
            batches of images that lie in memory, all of it where the networks are (small images, which a worker could
            not deliver fast enough).
        num_images: How many images of the split are trained on, and vote in the online k-NN: drawn without regard to
            classes, the same in every run; left out, all. Evaluations afterwards take whole splits.
    """

    name: str
    split: str = "train"
    evaluation_split: str = "test"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    augment: Literal["per_image", "per_batch", "on_device"] = "per_image"
    num_images: PositiveInt | None = None


class TrunkCard(Frozen):
    """The network whose features are judged.

    Attributes:
        architecture: `resnet50` and `resnet18` are torchvision's; `resnet50wN` has every channel of a ResNet-50 N
            times as wide, as SwAV's; `small` is the quickstart's.
        stem: `imagenet` is 7 x 7 with stride 2 and a max-pool; `small` is 3 x 3 without either.
        channels: Colour channels of the input.
        zero_init_residual: Whether each residual branch starts at zero.
    """

    architecture: Literal["resnet50", "resnet18", "resnet50w2", "resnet50w4", "resnet50w5", "small"]
    stem: Literal["imagenet", "small"] = "imagenet"
    channels: Literal[1, 3] = 3
    zero_init_residual: bool = True


class InitCard(Frozen):
    """What the trunk starts from.

    Attributes:
        model: A model as `-m` spells it, whose trunk is the recipe's; left out, fresh weights of the recipe's seed.
        freeze_epochs: Epochs at the start in which that trunk stays as it is, BatchNorm's statistics too, and what is
            above it learns.
    """

    model: str | None = None
    freeze_epochs: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _something_is_frozen(self) -> "InitCard":
        if self.freeze_epochs and self.model is None:
            raise ValueError(
                f"freeze_epochs is {self.freeze_epochs} and there is nothing to keep: name a model to start from "
                "(init.model), or leave it out"
            )
        return self


class HeadCard(Frozen):
    """The projection head: dense layers, and what comes between them. The defaults are CARP's (B.1).

    Attributes:
        num_layers: Dense layers.
        hidden_dim: Width between them.
        output_dim: Width of the embedding.
        activation: What follows each layer but the last.
        batch_norm: Whether BatchNorm stands before each activation.
        output_norm: Whether BatchNorm, without weights, follows the last layer.
        initialisation: `truncated` draws weights from a normal of deviation 0.02, cut at two deviations, and starts
            biases at zero; `torch` is PyTorch's own.
    """

    num_layers: PositiveInt = 3
    hidden_dim: PositiveInt = 2048
    output_dim: PositiveInt = 256
    activation: Literal["gelu", "relu"] = "gelu"
    batch_norm: bool = True
    output_norm: bool = False
    initialisation: Literal["truncated", "torch"] = "truncated"


class PrototypesCard(Frozen):
    """The prototypes.

    Attributes:
        count: How many, K.
        unit_norm: Whether each has length one.
        sets: How many independent sets of `count`, of a method that clusters several times.
    """

    count: PositiveInt
    unit_norm: bool = True
    sets: PositiveInt = 1


class TeacherCard(Frozen):
    """The slow network of a method that has one.

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
        interpolation: How the crop's pixels are resampled; where whole batches are made at once it is bilinear always.
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
        micro_batches: How many parts each process cuts its share of them into, of which the networks see one at a time:
            less memory, for more time. BatchNorm then normalises by the images of a part.
        accumulation: What the parts have in common. `exact` takes one loss of all, as if there were one, and embeds
            each part twice. `per_micro_batch` takes a loss of each and their mean, as CARP's authors do: the entropy of
            CARP's mean assignment, a partition, SwAV's even assignment and what an image is told from are a part's own.
        precision: `bf16` runs the networks in bfloat16 autocast; the loss is float32 always.
        checkpoint_epochs: Epochs between checkpoints; each replaces the one before.
        checkpoint_minutes: Longest time between checkpoints, where an epoch takes longer; 0 for any.
        keep_epochs: Epochs between checkpoints that stay; 0 keeps the last alone.
        knn_epochs: Epochs between online k-NN evaluations; 0 for none.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    micro_batches: PositiveInt = 1
    accumulation: Literal["exact", "per_micro_batch"] = "exact"
    precision: Literal["float32", "bf16"] = "float32"
    checkpoint_epochs: PositiveInt = 1
    checkpoint_minutes: NonNegative = 15.0
    keep_epochs: Annotated[int, Field(ge=0)] = 0
    knn_epochs: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _batch_can_be_cut(self) -> "ScheduleCard":
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches is {self.micro_batches} and does not divide batch_size, {self.batch_size}: choose a "
                "number that does"
            )
        return self


class ComputeCard(Frozen):
    """How a step is computed: what it takes of memory and time, and not what is learnt, but for rounding.

    Attributes:
        checkpoint_activations: Whether each block of the trunk keeps its input alone and computes the rest again when
            the gradient comes by: less memory for a third more time.
        channels_last: Whether the trunk sees images with their channels innermost, as the GPU's units for bf16 do.
        compile: Whether `torch.compile` makes the trunk faster, which takes minutes at the start and needs a compiler.
    """

    checkpoint_activations: bool = False
    channels_last: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> "ComputeCard":
        if self.checkpoint_activations and self.compile:
            raise ValueError(
                "checkpoint_activations and compile do not go together: what is compiled decides by itself what it "
                "computes again; choose one"
            )
        return self


class ExpectCard(Frozen):
    """What a run of the recipe gives: the score, how long it takes, and on what; empty if nobody measured it."""

    score: str = ""
    time: str = ""
    machine: str = ""


class RecipeCard(Card):
    """A training that can be run, `carp train NAME`: what recipes of all methods say.

    A method's own tables are added by a subclass (see `cards.methods`).

    Attributes:
        judged: Which of two networks the method's authors evaluate; a method of one network has that.
        series: The table of which it is one of many rows; recipes of one series are listed as one.
    """

    judged: ClassVar[Literal["teacher", "student"]] = "teacher"

    method: str
    series: str = ""
    seed: int = 0
    data: DataCard
    trunk: TrunkCard
    init: InitCard = InitCard()
    head: HeadCard
    views: Annotated[tuple[ViewCard, ...], Field(min_length=1)]
    optimiser: OptimiserCard
    schedule: ScheduleCard
    compute: ComputeCard = ComputeCard()
    expect: ExpectCard = ExpectCard()

    @model_validator(mode="after")
    def _views_and_channels_fit(self) -> "RecipeCard":
        if sum(view.count for view in self.views) < 2:
            raise ValueError("at least two views of an image are needed")
        if not len(self.data.mean) == len(self.data.std) == self.trunk.channels:
            raise ValueError(
                f"data.mean and data.std need {self.trunk.channels} values, as trunk.channels says"
            )
        return self


class PrototypeRecipe(RecipeCard):
    """A recipe of a method that assigns images to prototypes, which its networks hold as `prototypes.weight`."""

    prototypes: PrototypesCard


def check_teacher_sees(views: tuple[ViewCard, ...]) -> None:
    """Make sure that a teacher has something to see, in the recipe of a method that has one.

    Raises:
        ValueError: If no view goes to it.
    """
    if not any(view.to_teacher for view in views):
        raise ValueError("at least one view must go to the teacher (views.to_teacher)")
