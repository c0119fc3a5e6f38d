"""A clone's work tree as a commit, files that are not committed included."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from opam_ci.clients.git.process import COMMAND_TIMEOUT, clean_environment, run_git
from opam_ci.clients.git.repository import Repository
from opam_ci.core.errors import UsageError
from opam_ci.core.model import Frozen

_AUTHOR: Final = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "opam-ci"), ("EMAIL", "opam-ci@localhost"))
}


class Snapshot(Frozen):
    """A work tree as a commit.

    Attributes:
        clone: A repository that has it, besides all of the clone's commits.
        commit: The commit.
        head: The clone's `HEAD`, its parent.
        directory: The work tree; None for a bare clone, whose `HEAD` is the commit.
    """

    clone: Path
    commit: str
    head: str
    directory: Path | None


@contextmanager
def snapshot(path: Path) -> Iterator[Snapshot]:
    """Makes a commit of a clone's work tree, for the time of a block; the clone is not written.

    Args:
        path: The clone, or a folder in its work tree.

    Raises:
        UsageError: There is no git repository with a commit, or git is too old.
        InfrastructureError: Git fails.
    """
    with Repository.open(path) as repository:
        directory, head = repository.directory, repository.resolve("HEAD")
    top = _work_tree(path)
    if top is None:
        yield Snapshot(clone=directory, commit=head, head=head, directory=None)
        return
    with tempfile.TemporaryDirectory(prefix="opam-ci-snapshot-") as name:
        own = Path(name) / "repository"

        git = partial(_git, own, top)
        git("init", "--quiet", "--bare", str(own))
        # The clone's objects, and its index, which knows the files that have not changed.
        (own / "objects/info/alternates").write_text(f"{directory / 'objects'}\n")
        for file, source in (("index", _index(top)), ("shallow", directory / "shallow")):
            with suppress(FileNotFoundError):
                shutil.copyfile(source, own / file)
        tree = {"GIT_WORK_TREE": str(top)}
        git("add", "--all", "--", ".", **tree)
        commit = git("commit-tree", git("write-tree"), "-p", head, "-m", "work tree")
        yield Snapshot(clone=own, commit=commit, head=head, directory=top)


def with_file(taken: Snapshot, path: str, content: bytes) -> Snapshot:
    """Makes another commit of a work tree, with another content of one of its files.

    Args:
        taken: The work tree, within the block of `snapshot`.
        path: Of the file.
        content: What it contains there.

    Raises:
        UsageError: It is a bare clone, which is not written.
        InfrastructureError: Git fails.
    """
    if taken.directory is None:
        raise UsageError(f"{taken.clone} is a bare clone: give one with a work tree")
    with tempfile.TemporaryDirectory(prefix="opam-ci-edited-") as name:
        file, index = Path(name) / "file", Path(name) / "index"
        file.write_bytes(content)
        git = partial(_git, taken.clone, Path(name), GIT_INDEX_FILE=str(index))
        blob = git("hash-object", "-w", "--no-filters", str(file))
        git("read-tree", taken.commit)
        git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        commit = git("commit-tree", git("write-tree"), "-p", taken.head, "-m", "edited work tree")
    return taken.model_copy(update={"commit": commit})


def _git(repository: Path, directory: Path, *arguments: str, **variables: str) -> str:
    environment = {**clean_environment({"gc.auto": "0"}), **_AUTHOR, **variables}
    done = run_git(repository, *arguments, cwd=directory, env=environment, timeout=COMMAND_TIMEOUT)
    return done.stdout.decode().strip()


def _asked(path: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 -- a list of arguments, never a shell
        ["git", "-C", str(path), "rev-parse", *arguments],  # noqa: S607 -- found on PATH like any tool
        capture_output=True,
        check=False,
    )
    return os.fsdecode(done.stdout).rstrip("\n") if done.returncode == 0 else ""


def _work_tree(path: Path) -> Path | None:
    top = _asked(path, "--show-toplevel")
    return Path(top) if top else None


def _index(top: Path) -> Path:
    return Path(_asked(top, "--path-format=absolute", "--git-path", "index"))
