import math

import pytest

from carp_eval.report.sparkline import sparkline


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([7.0, 0.0], 8, "█▁"),
        # Each block the mean of two: 0.5, 2.5, 4.5, 6.5.
        ([0, 1, 2, 3, 4, 5, 6, 7], 4, "▁▃▆█"),
        ([3.0, 3.0], 8, "▅▅"),
        ([0.0, math.nan, 7.0], 8, "▁ █"),
        ([math.inf, math.nan], 8, ""),
        ([], 8, ""),
        ([1.7e308, -1.7e308], 8, "█▁"),
    ],
)
def test_a_line_is_as_high_as_its_numbers(values, width, line):
    assert sparkline([float(value) for value in values], width=width) == line


def test_a_long_curve_fits_its_width():
    line = sparkline([float(number) for number in range(1009)], width=24)
    assert len(line) == 24
    assert list(line) == sorted(line)
    assert {"▁", "█"} <= set(line)
