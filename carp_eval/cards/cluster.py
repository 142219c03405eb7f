"""Cards of k-means clustering: Lloyd's k-means, or scikit-learn's on small batches."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from carp_eval.cards.protocol import ProtocolCard


class ClusterCard(ProtocolCard):
    """What clusterings share: k-means on one split's features, the other split's images in the nearest clusters.

    Attributes:
        mode: Which k-means.
        clusters: How many; left out, the number of classes.
        restarts: Starting points.
        standardise: Whether each feature is first brought to mean 0 and deviation 1 on the fitted images.
        fit_share: Share of each class of the fitted split that is drawn to be fitted; the rest needs no features.
        fit_list: Whether the list of images that the field uses for this share of the data set is taken, where it has
            one, instead of a draw.
    """

    kind: Literal["cluster"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: str
    clusters: PositiveInt | None = None
    restarts: PositiveInt
    standardise: bool
    fit_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    fit_list: bool = False

    @model_validator(mode="after")
    def _two_splits_for_a_share(self) -> "ClusterCard":
        if self.fit_share < 1 and self.bank_split == self.query_split:
            raise ValueError(
                f"fit_share = {self.fit_share:g} draws from the split that is scored; give another bank_split"
            )
        if self.fit_list and self.fit_share == 1:
            raise ValueError("fit_list goes with a fit_share: the share of the split that the list is of")
        return self


class LloydCard(ClusterCard):
    """Lloyd's k-means: of runs from several starting points, the one with the best objective.

    Attributes:
        iterations: Of each run, at most: a run that has come to rest ends.
        spherical: Whether centres are scaled to unit length after each iteration.
        points_per_centre: At most this many points per centre are drawn to fit; 0 takes all.
    """

    mode: Literal["lloyd"] = "lloyd"  # pyright: ignore[reportIncompatibleVariableOverride]
    iterations: PositiveInt
    spherical: bool
    points_per_centre: Annotated[int, Field(ge=0)] = 0


class MiniBatchCard(ClusterCard):
    """scikit-learn's k-means on small batches, started by k-means++; `restarts` starts are tried, the best is run.

    Attributes:
        batch_size: Images in a step.
        max_epochs: Passes over the images at most; it ends before, where it no longer gets better.
    """

    mode: Literal["minibatch"]  # pyright: ignore[reportIncompatibleVariableOverride]
    batch_size: PositiveInt
    max_epochs: PositiveInt


MODES: dict[str, type[ClusterCard]] = {"lloyd": LloydCard, "minibatch": MiniBatchCard}


def card_type(content: dict[str, Any]) -> type[ClusterCard]:
    """Return the class that reads a card of this content's mode; without a known one, one that refuses it."""
    return MODES.get(content.get("mode", ""), LloydCard)
