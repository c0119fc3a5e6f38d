"""A local clone of opam-repository, read through git alone: no work tree, nothing written.

    with Repository.open(path) as repository:
        base = repository.resolve("master")
        head = repository.resolve("my-branch")
        merged = repository.merge(base, head)           # Merge(tree=…) or a conflict
        changes = repository.changes(repository.tree_of(base), merged.tree)

All methods block and may be called from several threads (`threads.GIT`); long-lived
processes start at the first query and stay, so a second pull request on the same `Repository`
is faster. A failure of git is an `InfrastructureError` with cause git, a wrong argument a
`UsageError`. `export.py` makes archives of what is found here.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self

from opam_ci.clients.git.diff import TreeDiffer
from opam_ci.clients.git.names import resolve
from opam_ci.clients.git.process import Git, ObjectReader, git_fault, split_nul
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.model import Frozen
from opam_ci.core.submission.admission import is_package
from opam_ci.core.submission.change import FileChange


class Merge(Frozen):
    """The result of merging a head into a base.

    Attributes:
        tree: Id of the merged tree; None for a conflict.
        conflicts: The paths in conflict, as git names them, when there is no tree.
    """

    tree: str | None
    conflicts: tuple[str, ...] = ()


class PullRequestRefs(Frozen):
    """A pull request's commits in a clone.

    Attributes:
        number: Its number.
        base: Commit into which it goes, or went.
        head: Its last commit.
        merge: The commit that merged it, None while it is open.
    """

    number: int
    base: str
    head: str
    merge: str | None = None


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A file in a tree.

    Attributes:
        mode: Git's octal mode: 100644, 100755, 120000 (symlink), 160000 (submodule).
        kind: `blob`, or `commit` for a submodule.
        object_id: Id of its content.
        path: Path from the tree's root.
        size: Bytes of its content, 0 for a submodule.
    """

    mode: str
    kind: str
    object_id: str
    path: str
    size: int


# merge-tree --write-tree came with 2.38, cat-file --batch-command with 2.36.
_MINIMUM_VERSION: Final = (2, 38)
_VERSION: Final = re.compile(r"git version ([0-9]+)\.([0-9]+)")
_WHERE: Final = ("rev-parse", "--path-format=absolute", "--git-common-dir")


class Repository:
    """One clone of an opam repository, bare or not."""

    def __init__(self, git: Git, scratch: Path | None) -> None:
        """See `open`."""
        self._git = git
        self._scratch = scratch
        self._objects = ObjectReader(git)
        self._differ = TreeDiffer(git)

    @classmethod
    def open(cls, path: Path, *, scratch: Path | None = None) -> Self:
        """Open the clone at `path`.

        Args:
            path: The clone.
            scratch: A directory for merged trees, which its owner removes; by default one that
                lives as long as the returned object.

        Raises:
            UsageError: There is no git repository, or git is too old.
            InfrastructureError: Git cannot be started.
        """
        _require_version()
        try:
            found = subprocess.run(  # noqa: S603 -- a list of arguments, never a shell
                ["git", "-C", str(path), *_WHERE],  # noqa: S607 -- found on PATH like any tool
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise git_fault(f"git cannot be started: {error}") from error
        if found.returncode:
            messages = found.stderr.decode(errors="replace").strip().splitlines()
            raise UsageError(
                f"{path} is not a git repository: give a local clone of opam-repository"
                + (f" ({messages[0]})" if messages else "")
            )
        directory = Path(found.stdout.decode("utf-8", "surrogateescape").rstrip("\n"))
        if scratch is not None:
            return cls(Git(directory, scratch=scratch), None)
        own = Path(tempfile.mkdtemp(prefix="opam-ci-objects-"))
        return cls(Git(directory, scratch=own), own)

    def __enter__(self) -> Self:
        """Use as a context manager to end the processes."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End all processes, other threads' too, and drop the merged trees that were written."""
        self._git.stop()
        self._objects.close()
        self._differ.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def directory(self) -> Path:
        """The clone's git directory."""
        return self._git.directory

    # Commits

    def resolve(self, name: str) -> str:
        """The id of the commit that a branch, tag or commit id names; else `UsageError`."""
        return resolve(self._git, self._objects, name)

    def parents(self, commit: str) -> tuple[str, ...]:
        """The parents of a commit, by its id."""
        return tuple(line[7:] for line in self._header(commit) if line.startswith("parent "))

    def tree_of(self, commit: str) -> str:
        """The tree of a commit, by its id."""
        return next(line[5:] for line in self._header(commit) if line.startswith("tree "))

    def merge_base(self, base: str, head: str) -> str | None:
        """The best common ancestor of two commits, None when they have none."""
        done = self._git.run("merge-base", base, head, accept=(0, 1))
        return done.stdout.decode().strip() or None

    def is_ancestor(self, ancestor: str, commit: str) -> bool:
        """Whether `commit` holds `ancestor`."""
        done = self._git.run("merge-base", "--is-ancestor", ancestor, commit, accept=(0, 1))
        return done.returncode == 0

    def merge(self, base: str, head: str) -> Merge:
        """Merge two commits, by their ids, into a tree that only this object can see.

        Raises:
            UsageError: The clone is shallow and lacks the commit at which the two part.
            InfrastructureError: Cause `git`: the clone lacks objects.
        """
        # opam-repo-ci checks out the head and merges the base into it: the same order here.
        arguments = ("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", head, base)
        done = self._git.run(*arguments, accept=(0, 1, 128))
        if done.returncode == 128:  # noqa: PLR2004 -- git's own code for "fatal:"
            return self._merge_without_base(base, head, done.stderr)
        # Git of Debian 12 merges a tree that is missing as an empty one, and exits with 0.
        if any(line.startswith(b"error: ") for line in done.stderr.splitlines()):
            raise git_fault(f"git merge-tree: {done.stderr.decode(errors='replace').strip()[:300]}")
        tree, *conflicts = split_nul(done.stdout)
        if done.returncode:
            return Merge(tree=None, conflicts=tuple(conflicts))
        return Merge(tree=tree)

    def find_pull_request(self, number: int, base: str) -> PullRequestRefs:
        """Find a pull request's head in the refs of the clone, or its merge commit.

        Args:
            number: The pull request's number.
            base: Name of the base branch.

        Raises:
            UsageError: There is neither.
        """
        tip = self.resolve(base)
        head = self._fetched_head(number)
        if head is not None and not self.is_ancestor(head, tip):
            return PullRequestRefs(number=number, base=tip, head=head)
        if (merge := self._merge_commit(number, tip)) is not None:
            base, merged = self.parents(merge)
            return PullRequestRefs(number=number, base=base, head=merged, merge=merge)
        if head is not None:
            return PullRequestRefs(number=number, base=tip, head=head)
        raise UsageError(
            f"the clone has no pull request {number}: run "
            f"`git fetch origin pull/{number}/head:refs/pull/{number}/head` in it"
        )

    # Trees and blobs

    def require_packages(self, commit: str) -> None:
        """Check that a commit is one of an opam repository, else `UsageError`."""
        found = self._objects.info(f"{commit}:packages")
        if found is None or found[1] != "tree":
            raise UsageError(
                f"commit {commit[:12]} has no packages folder: give a clone of opam-repository"
            )

    def changes(self, old_tree: str, new_tree: str) -> list[FileChange]:
        """The files that differ between two trees, by their ids, with git's rename pairs."""
        return self._differ.changes(old_tree, new_tree)

    def read(self, tree: str, path: str) -> bytes | None:
        """The content of the file at `path` in a tree or commit; None if there is no file."""
        if "\n" in path:
            return None
        found = self._objects.info(f"{tree}:{path}")
        if found is None or found[1] != "blob":
            return None
        return self._objects.read(found[0])

    def exists(self, tree: str, path: str) -> bool:
        """Whether a tree or commit holds a file or folder at `path`."""
        return "\n" not in path and self._objects.info(f"{tree}:{path}") is not None

    def folder(self, tree: str, path: str) -> str | None:
        """The id of the folder at `path` in a tree or commit; None if there is none."""
        found = self._objects.info(f"{tree}:{path}") if "\n" not in path else None
        return found[0] if found is not None and found[1] == "tree" else None

    def sizes(self, ids: Sequence[str]) -> list[int]:
        """The sizes of objects in bytes, by their ids, in order."""
        sizes = list(self._objects.sizes(ids))
        if None in sizes:
            raise _missing(ids[sizes.index(None)])
        return [size for size in sizes if size is not None]

    def objects(self, ids: Sequence[str], sizes: Sequence[int] | None = None) -> Iterator[bytes]:
        """The contents of objects, by their ids, in order; a few in memory at a time.

        Args:
            ids: Their ids.
            sizes: Their sizes in bytes, if known.
        """
        for object_id, content in zip(ids, self._objects.read_many(ids, sizes), strict=True):
            if content is None:
                raise _missing(object_id)
            yield content

    def list_tree(self, tree: str, paths: Sequence[str] = ()) -> list[TreeEntry]:
        """All files of a tree or commit, or those below `paths`, sorted as git sorts them.

        A path that does not exist adds nothing.
        """
        listed = self._git.run("ls-tree", "-r", "-l", "-z", "--full-tree", tree, "--", *paths)
        entries: list[TreeEntry] = []
        for line in split_nul(listed.stdout):
            description, path = line.split("\t", 1)
            mode, kind, object_id, size = description.split()
            if kind == "blob" and not size.isdigit():
                raise _missing(object_id)
            entries.append(TreeEntry(mode, kind, object_id, path, int(size) if size != "-" else 0))
        return entries

    def folders(self, tree: str, path: str) -> dict[str, str]:
        """The ids of the folders directly in a folder of a tree or commit, by name.

        One level of opam-repository takes 10 ms, all of it 150.
        """
        listed = self._git.run("ls-tree", "-z", "-d", f"{tree}:{path}")
        found = {}
        for line in split_nul(listed.stdout):
            description, name = line.split("\t", 1)
            _, kind, object_id = description.split()
            if kind == "tree":  # not a submodule
                found[name] = object_id
        return found

    def count_packages(self, tree: str) -> int:
        """How many packages (name and version) of a tree or commit builds can see."""
        listed = self._git.run(
            "ls-tree", "-r", "-z", "--full-tree", "--name-only", tree, "--", "packages/"
        )
        return sum(map(is_package, split_nul(listed.stdout)))

    # Internals

    def _header(self, commit: str) -> list[str]:
        content = self._objects.read(f"{commit}^{{commit}}")
        if content is None:
            raise git_fault(f"commit {commit} is missing: the clone is damaged or shallow")
        return content.split(b"\n\n", 1)[0].decode("utf-8", "replace").splitlines()

    def _fetched_head(self, number: int) -> str | None:
        listed = self._git.run(
            "for-each-ref",
            "--format=%(objectname)",
            f"refs/pull/{number}/head",
            f"refs/pr/{number}",
            f"refs/remotes/*/pr/{number}",
            f"refs/remotes/*/pull/{number}",
            f"refs/remotes/*/pull/{number}/head",
        )
        ids = listed.stdout.decode().split()
        return ids[0] if ids else None

    def _merge_commit(self, number: int, tip: str) -> str | None:
        subject = f"Merge pull request #{number} from "
        logged = self._git.run(
            "log",
            "--first-parent",
            "--min-parents=2",
            "--max-parents=2",
            "--fixed-strings",
            f"--grep={subject}",
            "--format=%H %s",
            tip,
        )
        for line in logged.stdout.decode("utf-8", "replace").splitlines():
            commit, _, title = line.partition(" ")
            if title.startswith(subject):
                return commit
        return None

    def _merge_without_base(self, base: str, head: str, message: bytes) -> Merge:
        """The merge of two commits that `git merge-tree` refuses to merge."""
        if self.merge_base(base, head) is not None:
            raise git_fault(f"git merge-tree: {message.decode(errors='replace').strip()}")
        if not (self._git.directory / "shallow").exists():
            # Unrelated histories, which git does not merge by default.
            return Merge(tree=None)
        # The clone lacks the common ancestor. If somebody merged just these two already, that
        # merge is the result; otherwise the clone needs more history.
        made = self._git.run("rev-list", "--all", "--min-parents=2", "--max-parents=2", "--parents")
        for line in made.stdout.decode().splitlines():
            commit, *parents = line.split()
            if parents == [base, head]:
                return Merge(tree=self.tree_of(commit))
        raise UsageError(
            f"the shallow clone lacks the commit at which {head[:12]} left its base: "
            "run `git fetch --unshallow` in it"
        )


def _missing(object_id: str) -> InfrastructureError:
    return git_fault(f"object {object_id} is missing: the clone is damaged or partial")


@cache
def _require_version() -> None:
    try:
        output = subprocess.run(["git", "version"], capture_output=True, check=True).stdout  # noqa: S607 -- found on PATH like any tool
    except (OSError, subprocess.CalledProcessError) as error:
        raise git_fault(f"git cannot be started: {error}") from error
    found = _VERSION.match(output.decode(errors="replace"))
    if found and (int(found[1]), int(found[2])) < _MINIMUM_VERSION:
        raise UsageError(f"git {found[1]}.{found[2]} is too old: install 2.38 or a newer one")
