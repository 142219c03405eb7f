import math
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from carp_eval.pretrain import partition
from carp_eval.pretrain.carp_loss import carp_loss
from tests.pretrain.plain_carp import plain_carp
from tests.pretrain.two_processes import take_loss


@dataclass
class Batch:
    student: Tensor
    teacher: Tensor
    prototypes: Tensor
    teacher_prototypes: Tensor
    blocks: Tensor

    def to(self, dtype):
        student = self.student.detach().to(dtype).requires_grad_()
        prototypes = self.prototypes.detach().to(dtype).requires_grad_()
        shared = self.teacher_prototypes is self.prototypes
        others = prototypes if shared else self.teacher_prototypes.to(dtype)
        return Batch(student, self.teacher.to(dtype), prototypes, others, self.blocks)

    def take(self, loss, **options):
        return loss(
            self.student, self.teacher, self.prototypes, self.teacher_prototypes, self.blocks, **options
        )


def batch(
    *, views=2, targets=2, images=4, dim=16, num_prototypes=48, block_size=8, shared=False, scale=1.0, seed=0
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).float()

    prototypes = normal(num_prototypes, dim)
    return Batch(
        student=scale * normal(views, images, dim),
        teacher=scale * normal(targets, images, dim),
        prototypes=prototypes,
        teacher_prototypes=prototypes if shared else normal(num_prototypes, dim),
        blocks=partition.draw(num_prototypes, block_size=block_size, generator=generator),
    ).to(torch.float32)


def off(found, wanted):
    """Return the norm of the difference relative to that of what is wanted."""
    found, wanted = found.detach().double(), wanted.detach()
    return float((found - wanted).norm() / wanted.norm())


def assert_agrees(ours, *, dtype=torch.float32, within=1e-5, chunk_blocks=None, **options):
    ours, plain = ours.to(dtype), ours.to(torch.float64)
    found = ours.take(carp_loss, chunk_blocks=chunk_blocks, **options)
    found.total.backward()
    total, consistency, kl = plain.take(plain_carp, **options)
    total.backward()
    for part, wanted in zip(found[:3], (total, consistency, kl), strict=True):
        assert float(part.detach()) == pytest.approx(float(wanted.detach()), rel=within, abs=within / 10)
    assert off(ours.student.grad, plain.student.grad) < within
    assert off(ours.prototypes.grad, plain.prototypes.grad) < within


@st.composite
def cases(draw, *, fewest_images=1, smallest_block=2):
    views = draw(st.integers(2, 4))
    num_prototypes = draw(st.integers(smallest_block, 40))
    return {
        "ours": batch(
            views=views,
            targets=draw(st.integers(1, views)),
            images=draw(st.integers(fewest_images, 6)),
            dim=draw(st.integers(4, 12)),
            num_prototypes=num_prototypes,
            block_size=draw(st.integers(smallest_block, num_prototypes)),
            shared=draw(st.booleans()),
            scale=draw(st.sampled_from([0.3, 1.0, 1.5])),
            seed=draw(st.integers(0, 2**30)),
        ),
        "entropy_weight": draw(st.sampled_from([0.0, 0.3, 1.0, 6.0])),
        "convention": draw(st.sampled_from(["sum", "mean"])),
        "unit_norm": draw(st.booleans()),
        "chunk_blocks": draw(st.sampled_from([None, 1, 2, 3, 100])),
    }


# A few views sure of the same prototype leave a small difference of shares near 1, in which single precision
# has few digits right, whoever computes it; in double precision such batches are let in.
@given(cases(fewest_images=4, smallest_block=6))
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_the_paper_in_single_precision(case):
    assert_agrees(**case)


@given(cases())
@settings(max_examples=50, deadline=None)
def test_it_agrees_with_the_paper_to_the_last_digits_in_double(case):
    assert_agrees(**case, dtype=torch.float64, within=1e-11)


def test_it_agrees_where_several_chunks_are_taken_by_default(monkeypatch):
    large = batch(images=16, dim=32, num_prototypes=4096, block_size=256, scale=1.5)
    monkeypatch.setattr("carp_eval.pretrain.carp_loss.CPU_CHUNK_LOGITS", 3 * 256 * 64)
    assert_agrees(large)


@pytest.mark.parametrize(("convention", "expected"), [("sum", 12.48), ("mean", 6.24)])
def test_value_at_initialisation(convention, expected):
    start = batch(images=64, dim=256, num_prototypes=4096, block_size=512, scale=9.4 / 16)
    parts = start.take(carp_loss, convention=convention)
    assert float(parts.consistency.detach()) == pytest.approx(expected, abs=0.03)
    assert 0 < float(parts.kl) < 0.03
    assert float(parts.total.detach()) == pytest.approx(float(parts.consistency + parts.kl))


def exact_logits(std, *, seed=0):
    """Make a batch whose products are whole numbers, so that rounding does not blur what is compared."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        (std * torch.randn(2, 6, 32, generator=generator)).round() for _ in ("student", "teacher")
    )
    blocks = partition.draw(32, block_size=16, generator=generator)
    return Batch(student, teacher, torch.eye(32), torch.eye(32), blocks).to(torch.float32)


@pytest.mark.parametrize("std", [10, 30, 100])
def test_sharp_views_keep_their_gradient(std):
    assert_agrees(exact_logits(std), unit_norm=False, entropy_weight=0.5)


def test_views_in_full_disagreement_learn():
    # Each row is sure of another prototype: <s, t> is about exp(-200), which single precision takes for 0.
    student = 200 * torch.eye(4)[[0, 1]].view(2, 1, 4)
    teacher = 200 * torch.eye(4)[[2, 3]].view(2, 1, 4)
    far = Batch(student, teacher, torch.eye(4), torch.eye(4), torch.arange(4).view(1, 4)).to(torch.float32)
    s, t = far.student.softmax(-1), far.teacher.flip(0).softmax(-1)
    clamped = -(s * t).sum(-1).clamp_min(1.19e-7).log().mean()
    assert not torch.autograd.grad(clamped, far.student)[0].any()
    assert_agrees(far, unit_norm=False, entropy_weight=0.0)


def test_a_mean_that_underflows():
    # All rows on one prototype: the mean of the others is exp(-500), 0 in single precision.
    rows = 500 * torch.eye(3)[[0, 0, 0, 0]].view(2, 2, 3)
    collapsed = Batch(rows, rows, torch.eye(3), torch.eye(3), torch.arange(3).view(1, 3)).to(torch.float32)
    parts = collapsed.take(carp_loss, unit_norm=False)
    parts.total.backward()
    assert float(parts.kl) == pytest.approx(math.log(3))
    assert float(parts.total.detach()) == pytest.approx(math.log(3))
    assert collapsed.student.grad.isfinite().all()
    assert collapsed.prototypes.grad.isfinite().all()


def test_confidence_is_the_mean_largest_assignment():
    # Two blocks of four; the three rows' largest are 0 and 2 (twice) in the first, all four alike in the second.
    rows = torch.zeros(3, 1, 8)
    rows[0, 0, 0] = rows[1, 0, 2] = rows[2, 0, 2] = math.log(5)
    drawn = Batch(rows, rows[:1], torch.eye(8), torch.eye(8), torch.arange(8).view(2, 4)).to(torch.float32)
    parts = drawn.take(carp_loss, unit_norm=False, chunk_blocks=1)
    assert float(parts.confidence) == pytest.approx((5 / 8 + 1 / 4) / 2)


def test_dropped_prototypes_get_no_gradient():
    few = batch(num_prototypes=11, block_size=4)
    few.take(carp_loss).total.backward()
    moved = few.prototypes.grad.abs().sum(dim=1) > 0
    assert sorted(moved.nonzero().flatten().tolist()) == sorted(few.blocks.flatten().tolist())


def test_only_what_is_asked_for_gets_a_gradient():
    both, one, other = batch(), batch(), batch()
    both.teacher.requires_grad_()
    both.teacher_prototypes.requires_grad_()
    one.prototypes.requires_grad_(False)
    other.student.requires_grad_(False)
    for each in (both, one, other):
        each.take(carp_loss).total.backward()
    assert both.teacher.grad is None
    assert both.teacher_prototypes.grad is None
    both.student.requires_grad_(False)
    both.prototypes.requires_grad_(False)
    assert not both.take(carp_loss).total.requires_grad
    assert one.prototypes.grad is None
    assert other.student.grad is None
    assert torch.equal(one.student.grad, both.student.grad)
    assert torch.equal(other.prototypes.grad, both.prototypes.grad)


def test_without_gradient_the_value_is_the_same():
    each = batch()
    with torch.no_grad():
        bare = each.take(carp_loss)
    assert not bare.total.requires_grad
    parts = each.take(carp_loss)
    assert [float(part) for part in bare] == [float(part.detach()) for part in parts]
    assert [part.requires_grad for part in parts] == [True, False, False, False]


def test_the_gradient_is_scaled_by_what_follows():
    once, thrice = batch(), batch()
    once.take(carp_loss).total.backward()
    (3 * thrice.take(carp_loss).total).backward()
    assert off(thrice.student.grad, 3 * once.student.grad.double()) < 1e-6
    assert off(thrice.prototypes.grad, 3 * once.prototypes.grad.double()) < 1e-6


def test_a_second_backward_says_that_the_gradient_is_gone():
    total = batch().take(carp_loss).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        total.backward()


def test_layout_in_memory_does_not_matter():
    strided, packed = batch(), batch()
    strided.student = packed.student.detach().mT.contiguous().mT.requires_grad_()
    strided.prototypes = packed.prototypes.detach().T.contiguous().T.requires_grad_()
    for each in (strided, packed):
        each.take(carp_loss).total.backward()
    assert off(strided.student.grad, packed.student.grad.double()) < 1e-6
    assert off(strided.prototypes.grad, packed.prototypes.grad.double()) < 1e-6


def test_half_precision_comes_in_and_goes_out_but_does_not_compute():
    half, single = batch().to(torch.bfloat16), batch().to(torch.bfloat16).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        parts = half.take(carp_loss)
    wanted = single.take(carp_loss)
    assert [float(part.detach()) for part in parts] == [float(part.detach()) for part in wanted]
    parts.total.backward()
    wanted.total.backward()
    assert half.student.grad.dtype == half.prototypes.grad.dtype == torch.bfloat16
    assert torch.equal(half.student.grad, single.student.grad.bfloat16())
    assert torch.equal(half.prototypes.grad, single.prototypes.grad.bfloat16())


def test_two_processes_agree_with_one(tmp_path):
    whole = batch(views=3, images=5, num_prototypes=50)
    options = {"entropy_weight": 2.0, "convention": "sum", "unit_norm": True}
    torch.save(
        {
            "student": whole.student.detach(),
            "teacher": whole.teacher,
            "prototypes": whole.prototypes.detach(),
            "teacher_prototypes": whole.teacher_prototypes,
            "partition": whole.blocks,
            "options": {**options, "chunk_blocks": 2},
            "split": 3,  # not half: a process may hold fewer images
        },
        tmp_path / "batch.pt",
    )
    torch.multiprocessing.spawn(take_loss, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))

    parts = whole.take(carp_loss, **options)
    plain = whole.to(torch.float64)
    total, *_ = plain.take(plain_carp, **options)
    total.backward()
    for each in (first, second):
        assert each["parts"] == pytest.approx([float(part.detach()) for part in parts], rel=1e-5)
        assert each["parts"][0] == pytest.approx(float(total.detach()), rel=1e-5)
        assert off(each["prototypes"], plain.prototypes.grad) < 1e-5
    assert off(torch.cat([first["student"], second["student"]], dim=1), plain.student.grad) < 1e-5


@pytest.mark.parametrize(("owner", "field"), [("student", "prototypes"), ("teacher", "teacher_prototypes")])
def test_a_prototype_without_direction(owner, field):
    broken = batch()
    with torch.no_grad():
        getattr(broken, field)[7] = 0
    with pytest.raises(ValueError, match=f"prototype 7 of the {owner} has no direction"):
        broken.take(carp_loss)
    assert broken.take(carp_loss, unit_norm=False).total.isfinite()


@pytest.fixture
def unchecked_shapes():
    """Call as a user does, without the tests' run-time check of shapes, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("field", "shape", "said"),
    [
        ("student", (2, 4), "view, image, dim"),
        ("student", (2, 5, 16), "the same images"),
        ("student", (1, 4, 16), "at least two views"),
        ("teacher", (3, 4, 16), "at least two views"),
        ("teacher", (0, 4, 16), "at least two views"),
        ("teacher", (2, 4, 15), "the same images"),
        ("prototypes", (48, 15), "16 dimensions"),
        ("teacher_prototypes", (47, 16), "as many for the teacher"),
        ("blocks", (48,), "block, member"),
        ("blocks", (3, 1), "at least two prototypes"),
    ],
)
def test_shapes_that_do_not_fit(field, shape, said):
    wrong = batch()
    setattr(wrong, field, torch.zeros(shape, dtype=getattr(wrong, field).dtype))
    with pytest.raises(ValueError, match=said):
        wrong.take(carp_loss)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "said"),
    [({"convention": "total"}, "sum or mean"), ({"chunk_blocks": 0}, "at least one block")],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        batch().take(carp_loss, **options)


def test_a_partition_of_more_prototypes_than_there_are():
    other = batch()
    other.blocks = partition.constant(64, block_size=8)
    with pytest.raises(ValueError, match="draw it for as many as there are"):
        other.take(carp_loss)


def test_chunks_side_by_side_are_chunks_one_after_the_other():
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            each = batch(num_prototypes=40, block_size=4).to(torch.float32)
            parts = each.take(carp_loss, chunk_blocks=2)
            parts.total.backward()
            found.append((parts.total.detach(), each.student.grad, each.prototypes.grad))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for alone, together in zip(*found):
        torch.testing.assert_close(alone, together)
