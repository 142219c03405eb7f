import pytest
import torch

from carp_eval.errors import BankError
from carp_eval.features.extraction.placing import place
from carp_eval.features.shards import Span

SPANS = [Span("a", 0, 4), Span("b", 4, 8), Span("c", 20, 23)]


def part(*numbers, dim=2):
    """Features that say which image they are of: number and minus number."""
    index = torch.tensor(numbers, dtype=torch.int64)
    return torch.stack([index, -index, *[index] * (dim - 2)], dim=1).float(), index


def run(*parts, skipped=(), spans=SPANS):
    placed = place(
        parts, spans, dim=2, dtype=torch.float16, skipped=skipped, name=lambda number: f"<{number}>"
    )
    return [(places.index().tolist(), places.features[places.taken].tolist()) for places in placed]


def test_rows_are_placed_by_number_whatever_the_parts():
    for parts in (
        [(0, 1, 2, 3), (4, 5, 6, 7), (20, 21, 22)],
        [(0, 1, 2, 3, 4, 5, 6, 7, 20, 21, 22)],
        [(3, 0), (2, 1, 5), (4, 7, 6, 22), (20,), (21,)],
    ):
        assert run(*(part(*numbers) for numbers in parts)) == [
            (numbers, [[number, -number] for number in numbers])
            for numbers in ([0, 1, 2, 3], [4, 5, 6, 7], [20, 21, 22])
        ]


def test_a_span_is_given_out_before_the_next_part_is_asked_for():
    def parts():
        yield part(0, 1, 2, 3)
        raise RuntimeError("asked for more")

    placed = place(parts(), SPANS, dim=2, dtype=torch.float32, skipped=(), name=str)
    assert next(placed).span == SPANS[0]
    with pytest.raises(RuntimeError):
        next(placed)


def test_skipped_images_have_no_row():
    found = run(part(0, 2), part(20, 21), skipped={1, 3, 4, 5, 6, 7, 22})
    assert [index for index, _ in found] == [[0, 2], [], [20, 21]]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(0, 1, 2), (4, 5, 6, 7), (20, 21, 22)], "1 images never came.*<3>"),
        ([(0, 1, 2, 3), (4, 5, 6, 7), (20,)], "2 images never came.*<21>, <22>"),
        ([(0, 1, 2, 2)], "more than once"),
        ([(0, 1, 2), (2, 3)], "more than once"),
        ([(0, 1, 2, 3), (4, 5, 6, 7), (20, 21, 22), (20,)], "nobody asked for"),
        ([(0, 1, 2, 3), (4, 5, 6, 7), (20, 21, 22, 23)], "nobody asked for"),
        ([(0, 1, 2, 3), (4, 5, 6, 7, 1), (20, 21, 22)], "never came.*<20>"),
    ],
)
def test_missing_doubled_and_stray_rows_are_errors(parts, message):
    with pytest.raises(BankError, match=message):
        run(*(part(*numbers) for numbers in parts))


def test_features_of_another_width_are_an_error():
    with pytest.raises(BankError, match=r"shape \(4, 3\).*\(4, 2\) was expected"):
        run(part(0, 1, 2, 3, dim=3))
