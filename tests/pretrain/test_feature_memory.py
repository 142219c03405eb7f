import torch
import torch.distributed as dist

from carp_eval.pretrain.feature_memory import FeatureMemory
from tests.features.processes import Started


def features_of(views, images, seed=0):
    return torch.randn(views, images, 3, generator=torch.Generator().manual_seed(seed))


def test_features_are_given_back_by_image_and_an_epoch_replaces_the_last():
    memory = FeatureMemory(6, num_views=2, dim=3)
    first, second, third = (features_of(2, 3, seed=seed) for seed in range(3))
    memory.write(0, torch.tensor([7, 2, 4]), first)
    memory.write(1, torch.tensor([0, 9, 3]), second)
    index, features = memory.everything()
    assert index.tolist() == [0, 2, 3, 4, 7, 9]
    assert torch.equal(features[4], first[:, 0])
    assert torch.equal(features[2], second[:, 2])
    # The third step is the first of another epoch.
    memory.write(2, torch.tensor([9, 1, 5]), third)
    index, features = memory.everything()
    assert index.tolist() == [0, 1, 3, 5, 9, 9]
    assert torch.equal(features[1], third[:, 1])


def _write_and_gather(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    try:
        memory = FeatureMemory(8, num_views=2, dim=3)
        for step in range(2):
            own = slice(2 * rank, 2 * rank + 2)
            numbers = torch.tensor([[5, 0, 3, 6], [1, 7, 2, 4]])[step, own]
            memory.write(step, numbers, features_of(2, 4, seed=step)[:, own])
        everything = memory.everything()
        state = memory.state()
        if rank == 0:
            torch.save(state, folder / "state.pt")
        dist.barrier()
        resumed = FeatureMemory.like(torch.load(folder / "state.pt", mmap=True, weights_only=True))
        same = torch.equal(resumed.index, memory.index) and torch.equal(resumed.features, memory.features)
        # Not tensors: their memory would have to outlive this process.
        return same, None if everything is None else [part.numpy() for part in everything]
    finally:
        dist.destroy_process_group()


def test_two_processes_give_what_one_gives_and_find_their_own_share_in_a_checkpoint(tmp_path):
    started = [Started(_write_and_gather, rank, tmp_path) for rank in (0, 1)]
    (first_same, gathered), (second_same, nothing) = (process.answer() for process in started)
    assert first_same
    assert second_same
    assert nothing is None
    one = FeatureMemory(8, num_views=2, dim=3)
    one.write(0, torch.tensor([5, 0, 3, 6]), features_of(2, 4, seed=0))
    one.write(1, torch.tensor([1, 7, 2, 4]), features_of(2, 4, seed=1))
    for found, expected in zip(gathered, one.everything(), strict=True):
        assert torch.equal(torch.from_numpy(found), expected)
