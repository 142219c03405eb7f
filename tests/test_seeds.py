import torch

from carp_eval import seeds


def test_a_place_has_one_seed_and_places_differ():
    assert seeds.derive(0, "views", 3, 14) == seeds.derive(0, "views", 3, 14)
    others = {
        seeds.derive(seed, name, epoch, index)
        for seed in range(3)
        for name in ("views", "partition")
        for epoch in range(12)
        for index in range(12)
    }
    assert len(others) == 3 * 2 * 12 * 12


def test_a_generator_depends_on_its_place_alone():
    torch.manual_seed(1)
    first = torch.rand(4, generator=seeds.generator(7, "order", 2))
    torch.manual_seed(2)
    assert torch.equal(first, torch.rand(4, generator=seeds.generator(7, "order", 2)))
    assert not torch.equal(first, torch.rand(4, generator=seeds.generator(7, "order", 3)))
