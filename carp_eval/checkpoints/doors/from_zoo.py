"""Models of the zoo that were pulled, and those that were imported under a name."""

from carp_eval.cards import loading, shelf
from carp_eval.checkpoints import assembling
from carp_eval.checkpoints.assembling import Branch, Layer
from carp_eval.checkpoints.zoo import pulled, storing
from carp_eval.errors import CheckpointError
from carp_eval.models.model import Model


def names() -> set[str]:
    """Return every name of the zoo, and of what was imported on this machine."""
    return {*shelf.names(shelf.ZOO), *loading.imported_cards()}


def opened(name: str, *, branch: Branch | None, layer: Layer) -> Model:
    """Open a model by its zoo name.

    Raises:
        CheckpointError: If it was not pulled yet, or is damaged.
        UsageError: If it has no such branch or layer.
    """
    found = pulled.find(name)
    if found is None:
        raise CheckpointError(f"{name} is in the zoo, but not on this machine yet: carp pull {name}")
    assembling.check_pool(name, layer)
    chosen = assembling.branch_of(found.card.weights.branches, branch, name=name)
    _, state = storing.state(found, chosen)
    return assembling.of_trunk(
        name,
        found.card.architecture,
        state,
        model_input=assembling.input_of(found.card.input),
        where=f"{name} in {found.folder}",
        branch="" if chosen == "single" else chosen,
        dataset=found.card.dataset,
        card=found.card,
    )
