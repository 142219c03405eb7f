import pytest

from carp_eval.data import shard_paths
from carp_eval.errors import DataError


@pytest.fixture
def find(tmp_path):
    def made(place, *files):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        found = shard_paths.find(f"wds:{place}", place if "://" in place else str(tmp_path / place))
        return {split: [str(path.relative_to(tmp_path)) for path in paths] for split, paths in found.items()}

    return made


def test_a_folder_means_its_tar_files_in_the_order_of_their_names(find):
    assert find("pets", "pets/b.tar", "pets/a.tar", "pets/notes.txt", "pets/.c.tar") == {
        "train": ["pets/a.tar", "pets/b.tar"]
    }


def test_one_file_is_a_data_set(find):
    assert find("a.tar", "a.tar", "b.tar") == {"train": ["a.tar"]}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("x-{08..11}.tar", ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]),
        ("x-{0010..0010}.tar", ["x-0010.tar"]),
        ("{b,a}/{1..2}.tar", ["b/1.tar", "b/2.tar", "a/1.tar", "a/2.tar"]),
        ("{b,a}/[12].tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("a/*.tar", ["a/1.tar", "a/2.tar", "a/30.tar"]),
        ("a/?.tar", ["a/1.tar", "a/2.tar"]),
    ],
)
def test_patterns_are_spelled_out(find, place, expected):
    files = ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar", "x-0010.tar", "x-9.tar"]
    files += ["a/1.tar", "a/2.tar", "a/30.tar", "b/1.tar", "b/2.tar"]
    assert find(place, *files) == {"train": expected}


def test_a_file_that_has_braces_in_its_name_is_itself(find):
    assert find("x-{1..2}.tar", "x-{1..2}.tar") == {"train": ["x-{1..2}.tar"]}


def test_names_and_folders_tell_splits(find):
    assert find("net", "net/net-train-0.tar", "net/net-train-1.tar", "net/net-validation-0.tar") == {
        "train": ["net/net-train-0.tar", "net/net-train-1.tar"],
        "validation": ["net/net-validation-0.tar"],
    }
    assert find("pets", "pets/train/0.tar", "pets/val/0.tar", "pets/val/1.tar") == {
        "train": ["pets/train/0.tar"],
        "val": ["pets/val/0.tar", "pets/val/1.tar"],
    }
    assert find("latest", "latest/trainees-0.tar") == {"train": ["latest/trainees-0.tar"]}


@pytest.mark.parametrize(
    ("place", "files", "message"),
    [
        ("x-{0..3}.tar", ["x-0.tar", "x-2.tar"], r"2 of 4 shards not there; the first is .*x-1\.tar"),
        ("none.tar", [], r"1 of 1 shard not there.*none\.tar"),
        ("none-*.tar", [], "no file is called so"),
        ("empty", ["empty/a.txt"], "no .tar file in the folder"),
        ("x-{3..1}.tar", [], r"\{3\.\.1\} is no range"),
        ("x-{0..999999}{0..9}.tar", [], "spells out 10,000,000 shards"),
        ("some.tar.gz", ["some.tar.gz"], "is compressed.*Unpack it"),
        ("mixed", ["mixed/a.tar", "mixed/b.tgz"], "b.tgz is compressed"),
        ("net", ["net/train-0.tar", "net/more-0.tar"], "names tell a split .*train.* and others .*more-0"),
        ("https://host/x.tar", [], "not a path.*download them first"),
    ],
)
def test_what_cannot_be_read_is_said(find, place, files, message):
    with pytest.raises(DataError, match=message):
        find(place, *files)


def test_a_command_is_never_run(tmp_path):
    with pytest.raises(DataError, match="not a path"):
        shard_paths.find("wds:pipe", f"pipe:touch {tmp_path / 'made'}")
    assert not (tmp_path / "made").exists()
