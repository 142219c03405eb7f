"""What a training from a stream cannot do, and what it tells."""

from collections.abc import Iterator

from carp_eval.cards.recipe import RecipeCard
from carp_eval.cards.swav import DeepClusterRecipe, SelaRecipe
from carp_eval.data.images import Images
from carp_eval.data.streamed import StreamedImages
from carp_eval.errors import UsageError


def check(recipe: RecipeCard, images: Images) -> None:
    """Check that a recipe needs nothing that a stream has not.

    Raises:
        UsageError: If it needs all images at hand, or the same number for an image in every epoch.
    """
    if not isinstance(images, StreamedImages):
        return
    instead = f"{images.name} is a stream: say hf: in place of hf-stream:, or download it"
    if recipe.data.augment == "per_batch":
        raise UsageError(
            f'data.augment = "per_batch" holds all images in memory, and {instead}; or data.augment=per_image'
        )
    if recipe.data.num_images is not None:
        raise UsageError(
            f"data.num_images draws images from all, and {instead}; for a shorter stream add "
            f"?rows={recipe.data.num_images}"
        )
    if isinstance(recipe, DeepClusterRecipe | SelaRecipe):
        raise UsageError(
            f"{recipe.method} labels each image once an epoch and must know it again in the next, and {instead}"
        )


def notes(images: Images) -> Iterator[str]:
    """Yield what whoever trains from a stream should know; nothing of other images."""
    if isinstance(images, StreamedImages):
        yield images.describe()
