"""A clone's work tree as a commit, files that are not committed included."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from opam_ci.clients.git.process import COMMAND_TIMEOUT, clean_environment, run_git
from opam_ci.clients.git.repository import Repository
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

        def git(*arguments: str, **variables: str) -> str:
            environment = {**clean_environment({"gc.auto": "0"}), **_AUTHOR, **variables}
            done = run_git(own, *arguments, cwd=top, env=environment, timeout=COMMAND_TIMEOUT)
            return done.stdout.decode().strip()

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
