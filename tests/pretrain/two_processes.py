"""One of two processes that take the loss of their share of a batch; started by test_carp_loss."""

from pathlib import Path

import torch
import torch.distributed as dist

from carp_eval.pretrain.carp_loss import carp_loss


def take_loss(rank, folder):
    torch.set_num_threads(1)
    folder = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    batch = torch.load(folder / "batch.pt", weights_only=True)
    own = slice(0, batch["split"]) if rank == 0 else slice(batch["split"], None)
    student = batch["student"][:, own].clone().requires_grad_()
    prototypes = batch["prototypes"].requires_grad_()
    parts = carp_loss(
        student,
        batch["teacher"][:, own],
        prototypes,
        batch["teacher_prototypes"],
        batch["partition"],
        **batch["options"],
    )
    parts.total.backward()
    # As DistributedDataParallel averages gradients.
    dist.all_reduce(prototypes.grad)
    torch.save(
        {
            "parts": [part.item() for part in parts],
            "student": student.grad / 2,
            "prototypes": prototypes.grad / 2,
        },
        folder / f"{rank}.pt",
    )
    dist.destroy_process_group()
