"""The formats of the field by their marks, and patterns for what lies beside a trunk."""

import glob
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from carp_eval.checkpoints import entries
from carp_eval.checkpoints.training import FORMAT

# Names that modules bear because of what holds them.
_SHELLS = ("module", "model", "net", "network", "encoder")


def ours(content: Mapping[str, Any]) -> bool:
    """Tell whether a file is a checkpoint of `carp train`."""
    return content.get("format") == FORMAT


def name_of(content: Mapping[str, Any], wrapper: tuple[str, ...], prefix: str) -> str:
    """Name the format of a file, for people.

    Args:
        content: What the file holds.
        wrapper: Where the trunk lies in it.
        prefix: What its names begin with.
    """
    inside = entries.descend(content, wrapper, where="the file")
    words = {
        word
        for name, value in inside.items()
        if isinstance(value, Tensor)
        for word in str(name).split(".")[:3]
    }
    top = {str(name) for name in content}
    known = (
        ("a checkpoint of carp train", ours(content)),
        ("VISSL", "classy_state_dict" in top or "_feature_blocks" in prefix),
        ("student and teacher, as CARP's and DINO's training saves them", {"student", "teacher"} <= top),
        ("MoCo v3", {"base_encoder", "momentum_encoder"} <= words),
        ("MoCo v2, PCL or another with a queue", "encoder_q" in prefix),
        ("InfoMin", {"head", "head_jig"} <= words),
        ("SimSiam", "predictor" in words and "encoder." in prefix and "momentum_encoder" not in words),
        ("SwAV, DeepCluster-v2 or SeLa-v2", {"projection_head", "prototypes"} & words != set()),
        ("Barlow Twins or VICReg, whole", "projector" in words and wrapper == ("model",)),
        ("a Lightning checkpoint, as solo-learn and lightly save them", "pytorch-lightning_version" in top),
        ("OpenMMLab: mmselfsup or mmpretrain", "meta" in top and prefix == "backbone."),
        ("solo-learn, lightly or mmselfsup", wrapper == ("state_dict",) and "backbone" in prefix),
        ("oBoW", wrapper == ("network",)),
        ("torchvision's names with a classifier", not prefix and "fc" in words),
        ("torchvision's names, no classifier", not prefix and not wrapper),
    )
    return next((name for name, holds in known if holds), "a dictionary of weights")


def patterns(others: Iterable[str], *, kept: Iterable[str]) -> dict[str, int]:
    """Return patterns that match some names and none of those kept, with the number of names of each.

    A name that only a part of the trunk could have is matched by none: it is not for leaving out.
    """
    keep = {name.partition(".")[0] for name in kept} | {"0", "1", "4", "5", "6", "7"}
    found: dict[str, int] = {}
    for name in others:
        parts = name.split(".")
        if parts[0] in keep:
            continue
        # One part names what is left out, unless it only names what holds it.
        length = 2 if parts[0] in _SHELLS else 1
        pattern = glob.escape(".".join(parts[:length])) + (".*" if len(parts) > length else "")
        found[pattern] = found.get(pattern, 0) + 1
    return found
