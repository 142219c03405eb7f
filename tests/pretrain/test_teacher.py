import torch
from torch import nn

from carp_eval.pretrain import teacher


def networks():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    slow = teacher.copy_of(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    return student, slow


def test_the_teacher_moves_by_the_share_that_momentum_leaves():
    student, slow = networks()
    expected = [
        [0.75 * old + 0.25 * new for old, new in zip(s.flatten().tolist(), f.flatten().tolist())]
        for s, f in zip(slow.parameters(), student.parameters())
    ]
    teacher.follow(slow, student, momentum=0.75)
    for parameter, values in zip(slow.parameters(), expected):
        torch.testing.assert_close(parameter.flatten(), torch.tensor(values))


def test_without_momentum_the_teacher_is_the_student_and_with_all_of_it_stays():
    student, slow = networks()
    before = [parameter.clone() for parameter in slow.parameters()]
    teacher.follow(slow, student, momentum=1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, slow.parameters()))
    teacher.follow(slow, student, momentum=0.0)
    assert all(torch.equal(fast, new) for fast, new in zip(student.parameters(), slow.parameters()))


def test_the_teacher_takes_no_gradient_and_keeps_its_own_statistics():
    student, slow = networks()
    assert not any(parameter.requires_grad for parameter in slow.parameters())
    student(torch.randn(8, 2) + 5)
    statistics = slow[1].running_mean.clone()
    teacher.follow(slow, student, momentum=0.5)
    assert torch.equal(slow[1].running_mean, statistics)
    slow(torch.randn(8, 2))
    assert not torch.equal(slow[1].running_mean, statistics)
