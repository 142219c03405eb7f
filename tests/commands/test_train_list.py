import pytest

from carp_eval.commands.train_list import common


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["a-k128", "a-k16"], "a-k*"),
        (["a-25ep-fixed", "a-50ep-fixed", "a-100ep-fixed"], "a-*ep-fixed"),
        (["a-k300", "a-k1000"], "a-k*"),
        (["a", "a-b"], "a*"),
        (["a-one", "a-one"], "a-one*"),
    ],
)
def test_names_are_one_pattern_that_tears_no_number(names, pattern):
    assert common(names) == pattern


def listed(carp_in, home, *arguments):
    code, told, _ = carp_in(home)("train", "--list", *arguments)
    assert code == 0
    return [line.split()[0] for line in told.splitlines() if line.startswith(" ") and line.split()]


def test_the_rows_of_a_table_are_listed_as_one(carp_in, tmp_path):
    names = listed(carp_in, tmp_path)
    assert "carp-resnet50-50ep-nb*" in names
    assert not [name for name in names if name.startswith("carp-resnet50-50ep-nb") and "*" not in name]
    assert "digits" in names
    # Numbers by their size, methods in the order of their table.
    order = ["carp-resnet50-50ep", "carp-resnet50-200ep", "carp-resnet50-800ep", "swav-resnet50-100ep"]
    assert sorted(order, key=names.index) == order


def test_part_of_a_name_or_a_pattern_lists_each_with_what_to_expect(carp_in, tmp_path):
    sizes = [32, 64, 128, 256, 1024, 2048, 4096, 16384, 65536]
    rows = [f"carp-resnet50-50ep-nb{size}" for size in sizes]
    for asked in ("carp-resnet50-50ep-nb", "carp-resnet50-50ep-nb*"):
        assert [name for name in listed(carp_in, tmp_path, asked) if "-nb" in name] == rows
    _, told, _ = carp_in(tmp_path)("train", "--list", "50ep-nb32")
    assert "49.56" in told


def test_a_name_that_nothing_has(carp_in, tmp_path):
    code, _, told = carp_in(tmp_path)("train", "--list", "nope")
    assert code == 2
    assert "no recipe has 'nope' in its name" in told
