"""The options of `compute`: the same step with less memory, and names of entries that stay."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from carp_eval.cards.recipe import ComputeCard, TrunkCard
from carp_eval.errors import UsageError
from carp_eval.models import trunks
from carp_eval.models.network import Network
from carp_eval.pretrain import memory, methods
from tests.recipes import tiny

CPU = torch.device("cpu")
TRUNKS = [
    TrunkCard(architecture="resnet18", stem="small"),
    TrunkCard(architecture="resnet50", stem="small", zero_init_residual=False),
    TrunkCard(architecture="small"),
]


def built(card):
    torch.manual_seed(0)
    return trunks.build(card).train()


def images(count=4, side=16, seed=1):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def step(trunk, pixels, *, bf16=False):
    """Take loss and gradients twice, as with two sizes of view, and return all that is left behind."""
    weights = torch.randn(2, 1, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = torch.stack([trunk(pixels), trunk(pixels.flip(3)[..., :12, :12])])
    loss = (features.float().sin() * weights[:, None]).mean()
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in trunk.named_parameters()}
    return loss.detach(), gradients, {name: tensor.clone() for name, tensor in trunk.state_dict().items()}


def kept_bytes(trunk, pixels):
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = trunk(pixels).sum()
    weights = {parameter.data_ptr() for parameter in trunk.parameters()}
    del loss
    return sum(size for place, size in kept.items() if place not in weights)


def same_to_the_bit(left, right):
    assert torch.equal(left[0], right[0])
    for mine, other in zip(left[1:], right[1:], strict=True):
        assert list(mine) == list(other)
        for name, tensor in mine.items():
            assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("card", TRUNKS, ids=lambda card: card.architecture)
def test_what_is_computed_again_is_the_same_to_the_bit_and_moves_statistics_once(card, bf16):
    plain, again = built(card), built(card)
    memory.checkpoint_activations(again)
    same_to_the_bit(step(plain, images(), bf16=bf16), step(again, images(), bf16=bf16))
    # The first pass has moved them, so the comparison means something.
    norms = [name for name in plain.state_dict() if name.endswith("num_batches_tracked")]
    assert norms
    assert all(int(again.state_dict()[name]) == 2 for name in norms)


@pytest.mark.parametrize("card", TRUNKS, ids=lambda card: card.architecture)
def test_less_is_kept_for_the_gradient(card):
    plain, again = built(card), built(card)
    memory.checkpoint_activations(again)
    most = {"resnet18": 0.35, "resnet50": 0.3, "small": 0.75}[card.architecture]
    assert kept_bytes(again, images(8, 32)) < most * kept_bytes(plain, images(8, 32))


def test_a_trunk_that_stays_as_it_is_may_be_computed_again_too():
    plain, again = (built(TRUNKS[0]).eval().requires_grad_(requires_grad=False) for _ in range(2))
    memory.checkpoint_activations(again)
    before = copy.deepcopy(again.state_dict())
    pixels, others = (images().requires_grad_() for _ in range(2))
    plain(pixels).sum().backward()
    again(others).sum().backward()
    assert torch.equal(pixels.grad, others.grad)
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())


def test_a_copy_of_a_trunk_computes_with_its_own_weights():
    trunk = built(TRUNKS[0])
    memory.checkpoint_activations(trunk)
    other = copy.deepcopy(trunk)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(trunk(images()), other(images()))
    with pytest.raises(UsageError, match=r"a trunk of residual blocks, and a Linear has none: leave it out"):
        memory.checkpoint_activations(torch.nn.Linear(2, 2))


def test_channels_innermost_change_nothing_but_rounding_and_no_weight():
    recipe = tiny(trunk__channels="3", data__mean="[0.5, 0.5, 0.5]", data__std="[0.5, 0.5, 0.5]")
    method, other = (methods.build(recipe, device=CPU) for _ in range(2))
    memory.prepare(method, ComputeCard(channels_last=True), device=CPU)
    seen = []
    for network in (method.student, method.teacher):
        network.trunk[3].register_forward_pre_hook(
            lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
        )
    pixels = torch.randn(4, 3, 28, 28)
    found, expected = method.student(pixels), other.student(pixels)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        method.teacher(pixels)
    assert seen == [True, True]
    found.sum().backward()
    for name, parameter in method.student.named_parameters():
        assert parameter.is_contiguous(), name
        assert parameter.grad is None or parameter.grad.is_contiguous(), name
    assert list(method.student.state_dict()) == list(other.student.state_dict())


def test_a_card_has_one_of_two_ways():
    with pytest.raises(ValidationError, match="do not go together"):
        ComputeCard(checkpoint_activations=True, compile=True)


def test_without_a_compiler_there_is_a_word_of_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    told = r"needs a C\+\+ compiler .*there is no .*none\): install one, or leave compute.compile out"
    with pytest.raises(UsageError, match=told):
        memory.prepare(methods.build(tiny(), device=CPU), ComputeCard(compile=True), device=CPU)


FAILING = """
import torch
from carp_eval.errors import UsageError
from carp_eval.pretrain import memory
try:
    memory.check_compiler(torch.device("cpu"))
except UsageError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_compiler_that_fails_is_told_of_likewise(tmp_path):
    environment = os.environ | {"CXX": "false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FAILING], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "compute.compile needs a C++ compiler" in done.stdout


@pytest.mark.slow
def test_what_is_compiled_keeps_its_names_and_learns_the_same():
    recipe = tiny()
    method, other = (methods.build(recipe, device=CPU) for _ in range(2))
    memory.prepare(method, ComputeCard(compile=True), device=CPU)
    pixels = torch.randn(4, 1, 28, 28)
    found, expected = method.student(pixels), other.student(pixels)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    for (name, mine), theirs in zip(
        method.student.named_parameters(), other.student.parameters(), strict=True
    ):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5), name
    assert list(method.student.state_dict()) == list(other.student.state_dict())
    Network(recipe).load_state_dict(
        {name: value for name, value in method.student.state_dict().items() if "prototypes" not in name}
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_less_memory_is_taken_at_the_highest():
    most = {}
    for again in (False, True):
        trunk = built(TrunkCard(architecture="resnet50")).cuda()
        if again:
            memory.checkpoint_activations(trunk)
        pixels = images(32, 224).cuda()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            trunk(pixels).sum().backward()
        most[again] = torch.cuda.max_memory_allocated()
        del trunk, pixels
    assert most[True] < 0.6 * most[False]
