"""The CI's own bare clone of the repository on GitHub, and how it is kept up to date.

The one place that writes to a clone, and only to clones of our own: an author's clone is never
changed (`git.py`).
"""

import fcntl
import re
import subprocess
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from opam_ci.clients.git.names import is_object_id
from opam_ci.clients.git.process import clean_environment, last_line, run_git
from opam_ci.clients.runners.sandbox import locks
from opam_ci.clients.threads import GIT
from opam_ci.core.errors import UsageError
from opam_ci.core.github.model import HEAD_GONE
from opam_ci.core.jobs.errors import InfrastructureError, SubmissionError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause, Evidence, FailureReason
from opam_ci.core.submission.admission import CHANGE_REFUSED, MAX_DEPTH

#: Seconds for one fetch. A first fetch of opam-repository is some hundred MB; a later one
#: takes a second or two.
FETCH_TIMEOUT: Final = 600.0

_SETTINGS: Final = {
    "fetch.fsckObjects": "true",
    "gc.auto": "0",
    "maintenance.auto": "false",
    # A server that sends under 1 kB/s for half a minute is down; the attempt is retried.
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
}
_MISSING_REF: Final = re.compile(rb"couldn't find remote ref|not our ref|unadvertised object")
#: Message of the remote's git, or of the local one (`core.maxTreeDepth`, 2,048 unless set).
_TOO_DEEP: Final = b"exceeded maximum allowed tree depth"
P = ParamSpec("P")
T = TypeVar("T")

_URL: Final = re.compile(r"(?:https?|file|git|ssh)://[^\s\0]{1,900}\Z")


class Upstream:
    """A bare clone that belongs to the CI.

    Methods block but for `in_turn`, and may be called by several processes at once: one
    fetches, the others wait for it.
    """

    def __init__(self, directory: Path, url: str) -> None:
        """Nothing is done yet.

        Args:
            directory: Where the clone is, or will be.
            url: Where it is fetched from.

        Raises:
            UsageError: Git does not fetch from such a URL without a shell.
        """
        if not _URL.match(url):
            raise UsageError(f"{url[:100]!r} is not an https, ssh, git or file URL of a repository")
        self.directory = directory
        self.url = url

    async def in_turn(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `refresh` or `fetch` of this clone on a thread, one call at a time.

        Waiting for those before it, of other processes too, holds no thread. If the caller is
        cancelled, git is killed.

        Raises:
            InfrastructureError: The directory cannot be written; or as the method does.
        """
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            async with locks.lock(self.directory.with_suffix(".turn")):
                return await GIT.run(method, *args, **kwargs)
        except OSError as error:
            raise InfrastructureError(
                f"cannot write to {self.directory}: {error.strerror}", cause=Cause.REPOSITORY_STATE
            ) from error

    def refresh(self, branch: str) -> str:
        """Fetches a branch and returns its newest commit.

        Raises:
            InfrastructureError: The remote is not reachable, or has no such branch.
        """
        with self._locked():
            return self._fetch_branch(branch)

    def fetch(self, branch: str, number: int, head: str) -> str:
        """Fetches the base branch and a pull request's head.

        Args:
            branch: The base branch.
            number: Of the pull request.
            head: The commit that is to be in the clone afterwards.

        Returns:
            The newest commit of the base branch.

        Raises:
            InfrastructureError: The remote is not reachable; or, by the rule `HEAD_GONE`, it no
                longer has the head.
            SubmissionError: The head's folders are nested deeper than git transfers.
        """
        if not is_object_id(head):
            raise UsageError(f"{head[:80]!r} is not a commit id")
        pull = f"refs/pull/{number}/head"
        with self._locked():
            base = self._fetch_branch(branch)
            if not self._has(head):
                self._fetch([f"+{pull}:{pull}"], f"pull request {number}", of_head=True)
            if not self._has(head):
                # Force-pushed meanwhile; hosts keep such commits for a while.
                try:
                    self._fetch([head], f"commit {head[:12]}", of_head=True)
                except InfrastructureError as error:
                    if error.evidence.rule == HEAD_GONE:
                        raise self._gone(number, head, pull) from error
                    raise
            if not self._has(head):
                raise self._gone(number, head, pull)
            return base

    def has(self, *commits: str) -> bool:
        """Whether the clone holds all of these commits."""
        return (self.directory / "HEAD").exists() and all(map(self._has, commits))

    def _fetch_branch(self, branch: str) -> str:
        self._fetch([_branch_spec(branch)], f"branch {branch!r}")
        commit = f"refs/heads/{branch}^{{commit}}"
        return self._run("rev-parse", "--verify", commit).stdout.decode().strip()

    def _gone(self, number: int, head: str, pull: str) -> InfrastructureError:
        now = self._run("rev-parse", "--verify", "--quiet", f"{pull}^{{commit}}", accept=(0, 1))
        at = now.stdout.decode().strip()
        branch = f"its branch is now at {at[:12]}" if at else "its branch is gone"
        return InfrastructureError(
            f"GitHub no longer has commit {head[:12]} of pull request {number}: {branch}",
            cause=Cause.GITHUB,
            phase=Phase.CHECKOUT,
            evidence=Evidence(
                rule=HEAD_GONE,
                phase=Phase.CHECKOUT,
                detail=f"GitHub no longer has commit {head[:12]}: {branch}",
            ),
        )

    def _has(self, commit: str) -> bool:
        # Complete with its history: a fetch that broke off leaves no ref to it, and so no
        # pack either; git moves a pack into place only when it is whole.
        return (
            self._run("cat-file", "-e", f"{commit}^{{commit}}", accept=(0, 1, 128)).returncode == 0
        )

    def _fetch(self, specs: Sequence[str], what: str, *, of_head: bool = False) -> None:
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--end-of-options")
        done = self._run("fetch", *options, self.url, *specs, accept=None)
        if not done.returncode:
            return
        if of_head and _TOO_DEEP in done.stderr:
            # The base has arrived, so it is the head's.
            raise _too_deep(what)
        message = last_line(done.stderr)
        # A base branch that does not exist is a mistake in the set-up, not in the head.
        gone = of_head and _MISSING_REF.search(done.stderr) is not None
        evidence = Evidence(rule=HEAD_GONE, phase=Phase.CHECKOUT, detail=message) if gone else None
        raise InfrastructureError(
            f"cannot fetch {what} from {self.url}: {message}",
            cause=Cause.GITHUB if gone else _cause(message),
            phase=Phase.CHECKOUT,
            evidence=evidence,
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the clone's lock, and makes the clone if it is not there."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / "opam-ci.lock").open("w")
        except OSError as error:
            raise InfrastructureError(
                f"cannot write to {self.directory}: {error.strerror}", cause=Cause.REPOSITORY_STATE
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.directory / "HEAD").exists():
                self._run("init", "--quiet", "--bare")
            yield

    def _run(
        self, *arguments: str, accept: Container[int] | None = (0,)
    ) -> subprocess.CompletedProcess[bytes]:
        return run_git(
            self.directory,
            *arguments,
            cwd=self.directory,
            env=git_environment(),
            timeout=FETCH_TIMEOUT,
            accept=accept,
            timeout_cause=Cause.NETWORK,
            cause_of=_cause,
        )


def upstream_in(clones: Path, owner: str, repo: str, url: str) -> Upstream:
    """Returns the clone of a repository on GitHub among those that a worker keeps."""
    return Upstream(clones / owner.lower() / f"{repo.lower()}.git", url)


def _branch_spec(branch: str) -> str:
    ref = f"refs/heads/{branch}"
    # `:` and `*` are syntax; git itself refuses other names that are invalid.
    if ":" in ref or "*" in ref or not ref.isprintable():
        raise UsageError(f"{branch[:80]!r} is not the name of a branch")
    return f"+{ref}:{ref}"


def _too_deep(what: str) -> SubmissionError:
    detail = (
        f"Folders of {what} are nested too deeply for git (at most {MAX_DEPTH} names in a path)"
    )
    evidence = Evidence(rule=CHANGE_REFUSED, phase=Phase.CHECKOUT, detail=detail)
    return SubmissionError(detail, reason=FailureReason.ANALYSIS, evidence=evidence)


def git_environment() -> dict[str, str]:
    """Returns the environment in which git fetches: it prompts for no password."""
    return {
        **clean_environment(_SETTINGS),
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
    }


_CAUSES: Final = (
    (re.compile(r"No space left|Disk quota"), Cause.DISK_FULL),
    (re.compile(r"Could not resolve host|Name or service not known"), Cause.DNS),
    (
        re.compile(
            r"Failed to connect|Connection (refused|reset|timed out)|unable to connect|"
            r"early EOF|hung up|Operation too slow|error: 5\d\d"
        ),
        Cause.NETWORK,
    ),
)


def _cause(message: str) -> Cause:
    return next((cause for pattern, cause in _CAUSES if pattern.search(message)), Cause.GIT)
