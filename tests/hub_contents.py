"""What is on a Hub: repositories as in git, held in memory.

A branch names a commit, a commit has one parent and a tree, blobs are named by their hash; large files are kept apart,
by their SHA-256, and blobs only point to them.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

LARGE = (".safetensors", ".parquet", ".pt", ".pth", ".bin", ".npy", ".onnx", ".zip")
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


@dataclass(frozen=True)
class Entry:
    """A file of a commit: its git hash, its bytes, and its SHA-256 where it is kept by LFS."""

    oid: str
    size: int
    lfs: str = ""


@dataclass(frozen=True)
class Commit:
    parent: str
    message: str
    tree: dict[str, Entry]
    number: int

    @property
    def sha(self) -> str:
        told = json.dumps([self.parent, self.message, self.number, sorted(map(str, self.tree.items()))])
        return hashlib.sha1(told.encode()).hexdigest()


@dataclass
class Repository:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Contents:
    """Repositories by name, and the bytes of their files."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.lock = threading.RLock()

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        private: bool = False,
        branch: str = "main",
        delete: tuple[str, ...] = (),
    ) -> str:
        """Commit files, as someone else might; repository and branch are made where missing. Return the commit."""
        with self.lock:
            made = self.make(repo, private=private)
            head = made.branches.setdefault(branch, made.branches["main"])
            tree = {path: entry for path, entry in made.commits[head].tree.items() if path not in delete}
            for path, content in files.items():
                tree[path] = self.keep(path, content)
            return self.commit(made, branch, tree, "added")

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Return every file of a revision, `.gitattributes` left out."""
        made = self.repositories[repo]
        tree = made.commits[made.resolve(revision) or ""].tree
        return {path: self.content(entry) for path, entry in tree.items() if path != ".gitattributes"}

    def head(self, repo: str, branch: str = "main") -> str:
        """Return the commit a branch names."""
        return self.repositories[repo].branches[branch]

    def history(self, repo: str, branch: str = "main") -> list[str]:
        """Return a branch's commit messages, the newest first."""
        made, told = self.repositories[repo], []
        sha = made.branches[branch]
        while sha:
            told.append(made.commits[sha].message)
            sha = made.commits[sha].parent
        return told

    def make(self, repo: str, *, private: bool) -> Repository:
        if repo not in self.repositories:
            made = self.repositories[repo] = Repository(private)
            self.commit(
                made, "main", {".gitattributes": self.keep(".gitattributes", ATTRIBUTES)}, "initial commit"
            )
        return self.repositories[repo]

    def commit(self, repo: Repository, branch: str, tree: dict[str, Entry], message: str) -> str:
        made = Commit(repo.branches.get(branch, ""), message, tree, len(repo.commits))
        repo.commits[made.sha] = made
        repo.branches[branch] = made.sha
        return made.sha

    def keep(self, path: str, content: bytes) -> Entry:
        if is_large(path, content):
            sha = hashlib.sha256(content).hexdigest()
            self.objects[sha] = content
            return self.pointer(sha, len(content))
        oid = git_hash(content)
        self.blobs[oid] = content
        return Entry(oid, len(content))

    def pointer(self, sha: str, size: int) -> Entry:
        told = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n"
        return Entry(git_hash(told.encode()), size, sha)

    def content(self, entry: Entry) -> bytes:
        return self.objects[entry.lfs] if entry.lfs else self.blobs[entry.oid]


def git_hash(content: bytes) -> str:
    """Return git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, sample: bytes, size: int = 0) -> bool:
    """Whether a file is kept by LFS: those of certain names, large ones, binary ones."""
    return path.endswith(LARGE) or b"\0" in sample[:512] or max(size, len(sample)) > 1_000_000
