"""The CARP loss as appendix B.2 writes it, in plain autograd: the oracle of the tests and the benchmark's rival.

One line is not the appendix's: the constant of the divergence is ln N_B, not its ln K.
"""

import math

import torch
import torch.nn.functional as F


def plain_carp(
    student,
    teacher,
    prototypes,
    teacher_prototypes,
    partition,
    *,
    entropy_weight=1.0,
    convention="sum",
    unit_norm=True,
):
    """Return total, consistency and divergence, all differentiable, in the dtype of what comes."""
    if unit_norm:
        prototypes = F.normalize(prototypes, dim=1, eps=0.0)
        teacher_prototypes = F.normalize(teacher_prototypes, dim=1, eps=0.0)
    s_list = [_logits_group(view @ prototypes.T, partition) for view in student]
    with torch.no_grad():
        t_list = [_logits_group(view @ teacher_prototypes.T, partition) for view in teacher]
    terms = [
        -torch.log(torch.einsum("knc,knc->kn", s, t)).mean()
        for i, s in enumerate(s_list)
        for j, t in enumerate(t_list)
        if i != j
    ]
    consistency = sum(terms) / len(terms) * {"sum": 2, "mean": 1}[convention]
    mean = torch.cat(s_list + t_list, dim=1).mean(dim=1)
    kl = (math.log(partition.shape[1]) + torch.xlogy(mean, mean).sum(dim=-1)).mean()
    return consistency + entropy_weight * kl, consistency, kl


def _logits_group(logits, partition):
    groups = logits[:, partition.flatten()].split(partition.shape[1], dim=1)
    return torch.stack(groups).softmax(dim=-1)
