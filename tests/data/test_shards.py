import io
import json
import os
import pickle
import tarfile
import threading

import pytest

from carp_eval.data import shard_index
from carp_eval.data.opening import open_images, split_names
from carp_eval.data.shards import ShardImages
from carp_eval.errors import BadImageError, DataError
from tests.data.pictures import encoded, picture, write_shards, write_tar

pytestmark = pytest.mark.usefixtures("carp_home")

PNG = encoded(picture())


def opened(place, split="train"):
    return open_images(f"wds:{place}", split)


def test_shards_are_read_as_any_data_set(tmp_path):
    images = opened(write_shards(tmp_path / "pets", [4, 0, 3, 1]))
    assert isinstance(images, ShardImages)
    assert len(images) == 8
    assert images.shard_sizes.tolist() == [4, 0, 3, 1]
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert images.class_names == ("0", "1", "2")
    for number in range(8):
        assert images.image(number).tobytes() == picture(number).tobytes()
    assert [images.key(number) for number in (0, 4, 7)] == [
        "train-0000.tar/0000",
        "train-0002.tar/0004",
        "train-0003.tar/0007",
    ]
    assert images.file_name(5) == "0005.png"


def test_splits_share_their_classes(tmp_path):
    write_shards(tmp_path / "pets", [3], classes=2)
    write_shards(tmp_path / "pets", [6], classes=5, name="validation-{}.tar")
    assert split_names(f"wds:{tmp_path}/pets") == ("train", "validation")
    assert (
        opened(tmp_path / "pets").class_names
        == tuple("01234")
        == opened(tmp_path / "pets", "test").class_names
    )


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_with_names_of_any_length(tmp_path, kind):
    # 100 characters fit into a header; a part before a slash helps USTAR to 255, the others need no help.
    folder = "f" * 90 + "/" + "g" * 60
    names = [f"{folder}/a.b.png", f"{folder}/c.png", "./d.JPG", "é/e.webp"]
    write_tar(tmp_path / "x.tar", [(name, PNG + bytes([at])) for at, name in enumerate(names)], format=kind)
    images = opened(tmp_path / "x.tar")
    # `a.b.png` is of the sample `a`, and no image: its kind is `b.png`.
    assert [images.key(number) for number in range(4)] == [
        f"x.tar/{folder}/a",
        f"x.tar/{folder}/c",
        "x.tar/d",
        "x.tar/é/e",
    ]
    with pytest.raises(BadImageError, match=r"x\.tar: f+/g+/a has no image among its files"):
        images.image(0)
    assert [images.image(number).size for number in (1, 2, 3)] == [(8, 6)] * 3


def test_what_is_no_sample_is_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (
            ("a", tarfile.DIRTYPE),
            ("a/l.png", tarfile.SYMTYPE),
            ("a/h.png", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name in ("a/._1.png", "a/1.png", "a/1.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            tar.addfile(member, io.BytesIO(PNG))
    images = opened(tmp_path / "x.tar")
    assert [images.key(0)] == ["x.tar/a/1"]
    assert len(images) == 1


def test_hostile_names_touch_nothing(tmp_path):
    names = ["../../of-the-tar.png", "/etc/of-the-tar.png", "a\x1b[31m\nb.png", "\udcff.png"]
    write_tar(tmp_path / "in" / "x.tar", [(name, PNG) for name in names])
    images = opened(tmp_path / "in" / "x.tar")
    assert [images.image(number).size for number in range(4)] == [(8, 6)] * 4
    assert images.key(0) == "x.tar/../../of-the-tar"
    assert images.key(3) == r"x.tar/\xff"
    assert {file.name for file in tmp_path.rglob("*")} >= {"in", "x.tar"}
    assert not list(tmp_path.parent.rglob("of-the-tar*"))


def test_a_sample_is_put_together_wherever_its_files_lie(tmp_path):
    write_tar(tmp_path / "x.tar", [("1.png", PNG), ("2.png", PNG), ("2.cls", b"1\n"), ("1.cls", b"0")])
    assert opened(tmp_path / "x.tar").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("files", "labels", "names"),
    [
        ([("cls", b"cat"), ("cls", b"dog"), ("cls", b"cat")], [0, 1, 0], ("cat", "dog")),
        ([("cls", b"2"), ("cls", b"0"), ("cls", b"10")], [2, 0, 10], tuple(map(str, range(11)))),
        (
            [("json", b'{"label": 1}'), ("json", b'{"cls": 0}'), ("json", b'{"other": 0}')],
            [1, 0, -1],
            ("0", "1"),
        ),
        ([("json", b'{"label": null, "class": "b"}'), ("json", b"[1]"), ("txt", b"3")], [0, -1, -1], ("b",)),
        ([("txt", b"a cat"), ("txt", b"a dog"), ("txt", b"")], [-1, -1, -1], ()),
        ([("cls", b"-1"), ("cls", b"1"), ("cls", b"")], [-1, 1, -1], ("0", "1")),
    ],
)
def test_classes_are_numbers_or_names(tmp_path, files, labels, names):
    members = [
        member
        for number, (extension, content) in enumerate(files)
        for member in ((f"{number}.{extension}", content), (f"{number}.png", PNG))
    ]
    images = opened(write_tar(tmp_path / "x.tar", members))
    assert images.labels.tolist() == labels
    assert images.class_names == names


def test_a_class_beside_a_description_counts(tmp_path):
    for at, order in enumerate((("cls", "json"), ("json", "cls"))):
        content = {"cls": b"3", "json": json.dumps({"label": 1}).encode()}
        members = [*((f"1.{extension}", content[extension]) for extension in order), ("1.png", PNG)]
        assert opened(write_tar(tmp_path / f"{at}.tar", members)).labels.tolist() == [3]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.png", PNG), ("2.png", PNG), ("1.png", PNG)], r"x\.tar has the file '1\.png' twice"),
        ([("1.png", PNG), ("1.jpg", PNG)], r"two images of one sample, 1\.png and 1\.jpg"),
        ([("1.cls", b"\xff"), ("1.png", PNG)], r"1\.cls is not text in UTF-8"),
        ([("1.json", b"{"), ("1.png", PNG)], r"1\.json is not JSON"),
        ([("1.json", b'{"label": 1.5}'), ("1.png", PNG)], r"1\.json has the class 1\.5"),
        ([("1.json", b'{"label": true}'), ("1.png", PNG)], r"1\.json has the class True"),
        ([("1.cls", b"7" * 2**21), ("1.png", PNG)], r"1\.cls has 2,097,152 bytes"),
        ([("1.cls", b"-2"), ("1.png", PNG)], "classes from -2 to -2"),
        ([("1.cls", b"99999999"), ("1.png", PNG)], "classes from 99999999"),
        ([("1.cls", b"1"), ("2.cls", b"2")], r"no sample of .* has an image; the first is x\.tar/1"),
        ([], "hold no sample"),
    ],
)
def test_what_is_wrong_with_a_shard_is_said(tmp_path, members, message):
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "x.tar")


def test_a_shard_that_is_cut_short_anywhere_is_said(tmp_path):
    path = write_shards(tmp_path, [3], name="x.tar") / "x.tar"
    whole = path.read_bytes()
    assert len(opened(path)) == 3
    with tarfile.open(path) as tar:
        end = max(-(-(member.offset_data + member.size) // 512) * 512 for member in tar.getmembers())
    for length in (*range(1, end, 131), *range(0, end, 512), end, end + 511):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.tar is (cut short|not a tar file|damaged)") as error:
            opened(path)
        assert length < 513 or "cut short or damaged at or after '000" in str(error.value)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = write_shards(tmp_path, [3], name="x.tar") / "x.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmembers()[2]
    content[member.offset + 5] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar is cut short or damaged at or after '0000\.png'"):
        opened(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_shard_is_refused_whatever_its_name(tmp_path, mode):
    write_tar(tmp_path / "x.tar", [("1.png", PNG)], mode=mode)
    with pytest.raises(DataError, match="compressed, whatever its name says"):
        opened(tmp_path / "x.tar")


def test_a_bad_image_is_named(tmp_path):
    write_tar(tmp_path / "x.tar", [("1.png", PNG), ("2.png", b"no image"), ("3.cls", b"1")])
    images = opened(tmp_path / "x.tar")
    with pytest.raises(BadImageError, match=r"x\.tar: 2\.png is not an image"):
        images.image(1)
    with pytest.raises(BadImageError, match=r"x\.tar: 3 has no image among its files"):
        images.image(2)
    assert images.manifest_sha256


def test_an_index_is_kept_until_the_file_changes(tmp_path, carp_home, monkeypatch):
    walked = []
    samples = shard_index._samples
    monkeypatch.setattr(shard_index, "_samples", lambda path: walked.append(path.name) or samples(path))
    folder = write_shards(tmp_path / "pets", [2, 2])
    first = opened(folder)
    assert sorted(walked) == ["train-0000.tar", "train-0001.tar"]
    again = opened(folder)
    assert len(walked) == 2
    assert again.manifest_sha256 == first.manifest_sha256
    write_shards(folder, [4], name="train-0001.tar", first=10)
    changed = opened(folder)
    assert walked[2:] == ["train-0001.tar"]
    assert changed.image(2).tobytes() == picture(10).tobytes()
    # Of the same size, a moment later.
    write_shards(folder, [4], name="train-0001.tar", first=20)
    os.utime(folder / "train-0001.tar", ns=(0, 10**18))
    assert opened(folder).image(2).tobytes() == picture(20).tobytes()
    # An index that is damaged, or of another version, is made anew.
    for index in (carp_home / "shards").glob("*.parquet"):
        index.write_bytes(b"PAR1")
    assert opened(folder).labels.tolist() == [0, 1, 20 % 3, 21 % 3, 22 % 3, 23 % 3]
    assert not list((carp_home / "shards").glob(".*"))


def test_the_manifest_tells_content_but_not_the_place(tmp_path):
    manifests = {
        opened(write_shards(tmp_path / place, sizes, **options)).manifest_sha256
        for place, sizes, options in (
            ("here", [2, 2], {}),
            ("there", [2, 2], {}),
            ("dealt otherwise", [1, 3], {}),
            ("relabelled", [2, 2], {"classes": 2}),
            ("others", [2, 2], {"first": 3, "classes": 3}),
        )
    }
    assert len(manifests) == 4


def test_shards_of_one_name_are_told_apart(tmp_path):
    for number, folder in enumerate(("a", "b")):
        write_shards(tmp_path / folder, [1], name="0.tar", first=number)
    images = opened(tmp_path / "*" / "0.tar")
    assert [images.key(number) for number in range(2)] == ["a/0.tar/0000", "b/0.tar/0001"]


def test_many_threads_read_more_shards_than_may_be_open(tmp_path):
    images = opened(write_shards(tmp_path, [1] * 80))
    wrong = []

    def read(start):
        for number in range(start, start + 80):
            if images.image(number % 80).tobytes() != picture(number % 80).tobytes():
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    copy = pickle.loads(pickle.dumps(images))
    assert copy.image(79).tobytes() == picture(79).tobytes()


def test_a_shard_that_shrinks_while_it_is_read_is_said(tmp_path):
    path = write_shards(tmp_path, [3], name="x.tar") / "x.tar"
    images = opened(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="has become shorter"):
        images.image(2)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.tar cannot be read: No such file"):
        pickle.loads(pickle.dumps(images)).image(2)
