"""A recipe small enough to train in a test."""

from carp_eval.cards import loading
from carp_eval.cards.recipe import RecipeCard

TINY = {
    "schedule.epochs": "2",
    "schedule.batch_size": "16",
    "schedule.checkpoint_epochs": "1",
    "schedule.keep_epochs": "0",
    "schedule.knn_epochs": "0",
    "head.hidden_dim": "16",
    "head.output_dim": "8",
    "prototypes.count": "32",
    "partition.block_size": "8",
}


def tiny(**changes: str) -> RecipeCard:
    """Return the digits recipe, cut down; a double underscore in a name stands for a dot."""
    return loading.recipe("digits", TINY | {key.replace("__", "."): value for key, value in changes.items()})
