"""What the entry points name. It imports nothing heavy: `carp eval --help` reads it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import PositiveFloat, PositiveInt

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.kinds import ProtocolPlugin
from carp_eval.cards.methods import MethodPlugin
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.recipe import RecipeCard
from carp_eval.data.row import DatasetPlugin, Row

HERE = Path(__file__).parent


class NcmCard(ProtocolCard):
    """Classification by the nearest class mean.

    Attributes:
        normalise: Whether features are scaled to unit length before they are averaged.
    """

    kind: Literal["ncm"]
    normalise: bool = True


def ncm(
    normalise: Annotated[
        bool | None, typer.Option("--normalise/--plain", help="Average unit features. Default: the card's.")
    ] = None,
) -> dict[str, Any]:
    """Classify test images by the nearest mean of a class in the bank."""
    return {} if normalise is None else {"normalise": normalise}


class PredictorCard(Frozen):
    """The predictor behind the projection head.

    Attributes:
        hidden_dim: Width of its hidden layer.
        lr: Its learning rate, which no schedule lowers.
    """

    hidden_dim: PositiveInt
    lr: PositiveFloat


class PredictRecipe(RecipeCard):
    """A training of the method `predict`."""

    method: Literal["predict"]
    predictor: PredictorCard


NCM = ProtocolPlugin(
    card_type=lambda _: NcmCard,
    run="carp_eval_example.nearest_mean:run",
    command=ncm,
    variant="example",
    cards=HERE / "protocols",
)
PREDICT = MethodPlugin(
    recipe=PredictRecipe, build="carp_eval_example.predict:Predict", recipes=HERE / "recipes"
)
STRIPES = DatasetPlugin(
    row=Row(
        title="stripes of three directions, drawn when they are asked for",
        splits={"train": 96, "test": 48},
        num_classes=3,
        image_size=28,
        channels=1,
        licence="CC0-1.0",
        homepage="https://example.org/stripes",
    ),
    open="carp_eval_example.stripes:locate",
)
