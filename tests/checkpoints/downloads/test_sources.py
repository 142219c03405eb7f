import pytest

from carp_eval.checkpoints.downloads import sources
from carp_eval.checkpoints.downloads.sources import DriveFile, HubFile, WebFile
from carp_eval.errors import UsageError


@pytest.mark.parametrize(
    ("spelling", "expected", "file_name"),
    [
        (
            "hf:user/mod.el-1/deep/model.safetensors",
            ("user/mod.el-1", "main", "deep/model.safetensors"),
            "model.safetensors",
        ),
        ("hf:user/model@v1.0/a.pth", ("user/model", "v1.0", "a.pth"), "a.pth"),
        ("gdrive:1feMX0I7u_mIafiYP4EafJ", ("1feMX0I7u_mIafiYP4EafJ", ""), "1feMX0I7u_mIafiYP4EafJ"),
        (
            "gdrive:12zK-5L/carp-400ep/checkpoint0399.pth",
            ("12zK-5L", "carp-400ep/checkpoint0399.pth"),
            "checkpoint0399.pth",
        ),
        (
            "https://drive.google.com/file/d/19nO2IrT856-0N9B/view?usp=sharing",
            ("19nO2IrT856-0N9B", ""),
            "19nO2IrT856-0N9B",
        ),
        ("https://drive.google.com/uc?export=download&id=19nO2", ("19nO2", ""), "19nO2"),
        (
            "https://host/a/swav%20800.pth.tar?x=1",
            ("https://host/a/swav%20800.pth.tar?x=1",),
            "swav_800.pth.tar",
        ),
        ("http://host/", ("http://host/",), "file"),
        (
            "https://www.dropbox.com/s/vygli/mira.pth.tar?dl=0",
            ("https://www.dropbox.com/s/vygli/mira.pth.tar?dl=1",),
            "mira.pth.tar",
        ),
        (
            "https://www.dropbox.com/scl/fi/x/mira.pth?rlkey=k&dl=0",
            ("https://www.dropbox.com/scl/fi/x/mira.pth?rlkey=k&dl=1",),
            "mira.pth",
        ),
        ("https://host/..%2F..%2Fetc/passwd/..", ("https://host/..%2F..%2Fetc/passwd/..",), "file"),
    ],
)
def test_each_way_to_spell_a_source(spelling, expected, file_name):
    source = sources.parse(spelling)
    kind = {3: HubFile, 2: DriveFile, 1: WebFile}[len(expected)]
    assert source == kind(spelling, *expected)
    assert source.file_name == file_name


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        "hf:",
        "hf:user",
        "hf:user/name",
        "hf:user/name@v1",
        "gdrive:",
        "ftp://host/file",
        "https://",
        "/etc/passwd",
        "file:///etc/passwd",
    ],
)
def test_anything_else_is_told_what_a_source_is(spelling):
    with pytest.raises(UsageError, match="gdrive:FILE_ID"):
        sources.parse(spelling)
