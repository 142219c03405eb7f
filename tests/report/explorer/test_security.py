"""Who is answered, and what becomes of what a stranger sends."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from carp_eval.report.explorer import guarding, receiving
from tests.report.explorer.asking import ask

TOKEN = "a-token-of-this-test"


@pytest.fixture(scope="module")
def guarded(serve, sides):
    return serve(sides, token=TOKEN)


def png_of(width, height):
    """A file that says it has so many pixels, and has none."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_another_name_than_this_machines_is_refused(address, host):
    answer = ask(address, "/api/state", Host=host)
    assert answer.status == 400
    assert b"pixels" not in answer.content


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7860"])
def test_names_of_this_machine_are_answered(address, host):
    assert ask(address, "/api/state", Host=host).status == 200


def test_the_address_that_is_listened_at_is_one_of_this_machines_names(serve, sides):
    address = serve(sides, host="127.0.0.2")
    assert ask(address, "/api/state", Host="127.0.0.2:7860").status == 200
    assert ask(address, "/api/state", Host="127.0.0.3:7860").status == 400


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", "http://a@"]
)
def test_what_another_sites_page_sends_is_refused(address, guarded, origin):
    assert ask(address, "/api/sides/0/picture", body=b"x", Origin=origin).status == 403
    assert ask(guarded, "/api/state", Origin=origin, Cookie=f"token={TOKEN}").status == 403
    assert ask(address, "/api/state", Origin=address).status == 200


PATHS = ["/", "/api/state", "/api/pictures/0", "/explore.js", "/nothing", "/?token=wrong", "/?token="]


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_answered(guarded, path):
    for cookie in ("", "x=y", f"token={TOKEN}", "carp-explore-0=wrong", "\xff=\xff"):
        answer = ask(guarded, path, **({"Cookie": cookie} if cookie else {}))
        assert answer.status == 401
        assert "token" in answer.told["error"]
        assert answer.headers["set-cookie"] is None


def test_the_token_becomes_a_cookie_and_leaves_the_address(guarded):
    answer = ask(guarded, f"/?token={TOKEN}")
    assert answer.status == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
    kept = cookie.partition(";")[0]
    assert ask(guarded, "/api/state", Cookie=kept).status == 200
    assert ask(guarded, "/", Cookie=kept, Host="any.name.of.this.machine").status == 200
    assert ask(guarded, "/api/state", Cookie=kept[:-1]).status == 401


def test_a_token_does_not_lead_to_another_site(guarded):
    answer = ask(guarded, f"//evil.example/?token={TOKEN}")
    assert answer.headers["location"] == "/"


def test_tokens_are_long_and_never_the_same():
    tokens = {guarding.new_token() for _ in range(50)}
    assert len(tokens) == 50
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.1.2.3", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_only_this_machines_own_addresses_need_no_token(host, own):
    assert guarding.is_loopback(host) is own


@pytest.mark.parametrize("path", ["/", "/api/state", "/api/nothing", "/api/sides/9/map"])
def test_every_answer_forbids_all_but_its_own_script(address, path):
    policy = ask(address, path).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert ask(address, path).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2fexplore.css",
        "/templates/page.html.j2",
        "/explore.html.j2",
        "/api/pictures/..%2f..%2fetc%2fpasswd",
        "/api/pictures/-1",
        "/api/pictures/96",
        "/api/pictures/99999999999999999999",
        "/api/sides/2/map",
        "/api/sides/0/images/5000",
        "//etc/passwd",
    ],
)
def test_what_is_not_there_is_not_found(address, path):
    answer = ask(address, path)
    assert answer.status == 404
    assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "query",
    [
        "only=everything",
        "label=10",
        "label=-1",
        "label=x",
        "start=-1",
        "start=99999999999999999999999",
        "count=0",
        "count=100000",
        "count=%D9%A3",
        "side=2",
    ],
)
def test_what_cannot_be_asked_is_said_in_words(address, query):
    answer = ask(address, f"/api/images?{query}")
    assert answer.status == 400
    assert query.partition("=")[0] in answer.told["error"]


@pytest.mark.parametrize("k", ["0", "201", "1.5", "nan"])
def test_a_number_of_neighbours_that_cannot_be(address, k):
    assert ask(address, f"/api/sides/0/images/1?k={k}").status == 400


def test_too_large_a_body_is_refused_before_it_is_read(address):
    answer = ask(address, "/api/sides/0/picture", method="POST", Content_Length=str(receiving.MOST_BYTES + 1))
    assert answer.status == 413
    assert "32 MiB" in answer.told["error"]


def test_a_body_that_hides_its_size_is_read_no_further_than_the_limit(address, monkeypatch):
    monkeypatch.setattr(receiving, "MOST_BYTES", 1000)
    chunked = b"".join(b"%x\r\n%b\r\n" % (600, bytes(600)) for _ in range(3)) + b"0\r\n\r\n"
    answer = ask(address, "/api/sides/0/picture", body=chunked, Transfer_Encoding="chunked")
    assert answer.status == 413


def jpeg():
    into = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(into, format="JPEG")
    return into.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not an image", "format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        # PostScript: Pillow would start Ghostscript.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "format"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (jpeg()[:500], "image"),
        (png_of(20_000, 20_000), "large"),
        (png_of(9_000, 9_000), "pixels"),
    ],
    ids=["text", "svg", "postscript", "stump", "cut", "bomb", "large"],
)
def test_what_is_no_image_is_said_in_words(address, content, words):
    answer = ask(address, "/api/sides/0/picture", body=content)
    assert answer.status == 422
    assert words in answer.told["error"]


def test_nothing_at_all_is_no_image(address):
    assert ask(address, "/api/sides/0/picture", body=b"").status == 400


def test_what_is_sent_is_not_kept(address, chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home = chosen[0].bank.path.parent.parent
    before = sorted(home.rglob("*"))
    assert ask(address, "/api/sides/0/picture", body=jpeg()).status == 200
    assert sorted(home.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(address, method):
    assert ask(address, "/api/state", method=method).status == 405
