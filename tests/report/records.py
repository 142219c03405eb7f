"""Records as an evaluation writes them, without one, and a page read with the standard library's parser."""

import json
from html.parser import HTMLParser

from carp_eval import results
from carp_eval.report import writing
from carp_eval.report.found import Found
from carp_eval.results import Result, Score

VOID = {"meta", "input", "br", "img", "link", "base", "hr", "source", "embed", "col", "area", "wbr", "track"}


def record(*scores, **changes):
    content = {
        "protocol": "knn",
        "variant": "dino",
        "card": {"kind": "knn", "k": [20]},
        "card_sha256": "c" * 64,
        "model": "m",
        "branch": "",
        "layer": "pool",
        "weights_sha256": "a" * 64,
        "dataset": "cifar10",
        "query_dataset": "cifar10",
        "bank_split": "train",
        "query_split": "test",
        "data": {},
        "banks": {},
        "preprocessing": {},
        "counts": {},
        "scores": scores or (Score(metric="top1", value=50.0),),
        "seed": 0,
        "device": "cpu",
        "seconds": 1.0,
        "finished": "2026-11-21T10:00:00+00:00",
        "command": "/usr/bin/carp eval knn",
        "versions": {"torch": "2.0"},
        "git_commit": "",
        "machine": "a machine",
    }
    return Result.model_validate(content | changes)


def saved(folder, result, **predictions):
    """Write a record and its predictions as `carp eval` does, and find it again."""
    path = results.save(result, folder, predictions=predictions)
    return Found(path, results.load(path))


class Page(HTMLParser):
    """A page's elements, in order: name, attributes, text directly inside; what is not closed is a failure."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {[name for name, _ in self._open]}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice in {tag}: {names}"
        element = {
            "tag": tag,
            "attributes": dict(attrs),
            "text": "",
            "within": [name for name, _ in self._open],
        }
        self.elements.append(element)
        if tag not in VOID:
            self._open.append((tag, element))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1][0] == tag, f"</{tag}> closes <{self._open[-1][0]}>"
        self._open.pop()

    def handle_data(self, data):
        for _, element in self._open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and all(
                element["attributes"].get(name.rstrip("_")) == value for name, value in attributes.items()
            )
        ]

    def rows(self, caption):
        """The cells' texts of the tables whose caption starts so, heads left out."""
        found, here = [], False
        for element in self.elements:
            here = element["text"].startswith(caption) if element["tag"] == "caption" else here
            if not here or "tbody" not in element["within"]:
                continue
            if element["tag"] == "tr":
                found.append([])
            elif element["tag"] in ("td", "th"):
                found[-1].append(element["text"].strip())
        return found

    def data(self):
        """What the page's script is given."""
        return [json.loads(element["text"]) for element in self.all("script", type="application/json")]


def written(found, path, **more):
    told = writing.write(found, path, **more)
    content = path.read_bytes()
    assert len(content) == told.size <= writing.LIMIT
    return Page(content.decode("utf-8"))
