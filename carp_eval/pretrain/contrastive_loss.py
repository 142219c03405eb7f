"""NT-Xent, the loss of SimCLR (Chen et al., ICML 2020), with any number of views (SwAV's supplement, A.8)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from carp_eval import distributed
from carp_eval.pretrain import together


def nt_xent(embeddings: Float[Tensor, "view image dim"], *, temperature: float) -> Float[Tensor, ""]:
    """Tell each view's other views from the views of all other images, of all processes (A.8, equation 1).

    Every crop is an anchor once for each other crop of its image; its negatives are all crops of other images. With two
    views this is SimCLR's loss.

    Args:
        embeddings: Of this process's images; brought to unit length here.
        temperature: tau.

    Returns:
        The mean over this process's anchors and their positives; averaged over processes, the whole batch's.

    Raises:
        ValueError: If there are not two views, or the temperature is not positive.
    """
    num_views, num_images, _ = embeddings.shape
    if num_views < 2:
        raise ValueError(f"at least two views of an image are compared, got {num_views}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    # In float32: exp(1 / 0.1) of thousands of negatives is more than half precision holds apart.
    unit = functional.normalize(embeddings.float(), dim=-1)
    everywhere = together.gather(unit.transpose(0, 1)).transpose(0, 1)
    anchors = unit.flatten(0, 1)
    similarities = anchors @ everywhere.flatten(0, 1).T / temperature
    similarities = similarities.view(num_views, num_images, num_views, -1)
    own = torch.arange(num_images, device=unit.device) + distributed.rank() * num_images
    # [anchor's view, image, other view]: the anchor's image seen by each view.
    positives = similarities[:, torch.arange(num_images, device=unit.device), :, own].transpose(0, 1)
    same_image = functional.one_hot(own, similarities.shape[-1]).bool()[None, :, None, :]
    negatives = similarities.masked_fill(same_image, -torch.inf).flatten(2).logsumexp(dim=-1)
    losses = torch.logaddexp(positives, negatives[..., None]) - positives
    others = ~torch.eye(num_views, dtype=torch.bool, device=unit.device)
    return losses.masked_select(others[:, None, :]).mean()
