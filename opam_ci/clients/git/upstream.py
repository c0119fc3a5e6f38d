"""The CI's own bare clone of the repository on GitHub, and how it is kept up to date.

The one place that writes to a clone, and only to clones of our own: an author's clone is never
changed (`repository.py`).

The clone may be killed at any time: whoever takes its lock first removes what a killed git left
(`healing.py`). If a fetch fails although the remote answers, or an analysis finds objects
missing, git checks the clone, and one that is damaged is cloned anew.

A head is kept by a ref of its day, `refs/keep/DAY/HEAD`, for `_KEPT` days. Once a day those of
older days are removed, and git collects what nothing refers to.
"""

import fcntl
import logging
import re
import subprocess
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Final, ParamSpec, TypeVar

from opam_ci.clients.git import healing
from opam_ci.clients.git.healing import Recovery
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
    # Each fetch makes one pack, which is there as a whole or not at all.
    "fetch.unpackLimit": "1",
    # A ref that survives a power cut has its objects.
    "core.fsync": "all",
    "core.fsyncMethod": "batch",
    "gc.auto": "0",
    "maintenance.auto": "false",
    # What is unreachable is in one pack, and not in a file for each object.
    "gc.cruftPacks": "true",
    # Once a day, beside builds.
    "pack.threads": "1",
    # Derived data: less that can be torn.
    "gc.writeCommitGraph": "false",
    "repack.writeBitmaps": "false",
    # A server that sends under 1 kB/s for half a minute is down; the attempt is retried.
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
}
_KEPT: Final = timedelta(days=2)
"""How long a head is kept; one that is needed later is fetched again."""

_PRUNED: Final = "1.day.ago"
"""Age of unreachable objects that git removes: an analysis that uses them ends within the hour."""

_MAINTAINED_EVERY: Final = timedelta(days=1)
_MAX_PACKS: Final = 50
"""Packs above which small ones are joined in between: each lookup asks all packs."""

_CHECKED_EVERY: Final = timedelta(minutes=10)
"""How often git checks the clone at most: a head that no clone can fetch is no reason to read all
of it again and again."""

_DAMAGED_KEPT: Final = timedelta(days=7)
"""How long a damaged clone is kept for its operator."""

#: Files in a clone whose time says when something was done last, or that it must be done.
_MAINTAINED: Final = "opam-ci.maintained"
_CHECKED: Final = "opam-ci.checked"
_SUSPECTED: Final = "opam-ci.suspected"

_DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL", "--")
_PULL: Final = "refs/opam-ci/pull"
"""The ref into which a pull request's head is fetched; the next one overwrites it."""

_MISSING_REF: Final = re.compile(rb"couldn't find remote ref|not our ref|unadvertised object")
#: Message of the remote's git, or of the local one (`core.maxTreeDepth`, 2,048 unless set).
_TOO_DEEP: Final = b"exceeded maximum allowed tree depth"
P = ParamSpec("P")
T = TypeVar("T")

#: Without a password, and with a user name only where it is no secret: the URL is in histories,
#: messages and logs.
_URL: Final = re.compile(
    r"(?:(?:https?|file|git)://(?![^/]*@)|ssh://(?![^/@]*:[^/]*@))[^\s\0]{1,900}\Z"
)

_log = logging.getLogger(__name__)


class Upstream:
    """A bare clone that belongs to the CI.

    Methods block but for `in_turn`, and may be called by several processes at once: one
    fetches, the others wait for it.
    """

    def __init__(
        self,
        directory: Path,
        url: str,
        on_recovery: Callable[[Recovery], None] = lambda _: None,
    ) -> None:
        """Nothing is done yet.

        Args:
            directory: Where the clone is, or will be.
            url: Where it is fetched from.
            on_recovery: Called after each repair; must neither block nor raise.

        Raises:
            UsageError: Git does not fetch from such a URL without a shell, or it has a password.
        """
        require_url(url)
        self.directory = directory
        self.url = url
        self._on_recovery = on_recovery

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
            raise self._not_writable(error) from error

    def refresh(self, branch: str) -> str:
        """Fetches a branch and returns its newest commit.

        Raises:
            InfrastructureError: The remote is not reachable, or has no such branch.
        """
        with self._locked():
            return self._healed(lambda: self._fetch_branch(branch))

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
        with self._locked():
            base = self._healed(lambda: self._fetch_both(branch, number, head))
            self._run("update-ref", f"refs/keep/{_today():%Y%m%d}/{head}", head)
            self._maintain_if_due()
            return base

    def has(self, *commits: str) -> bool:
        """Whether the clone holds all of these commits, each with its history."""
        return (self.directory / "HEAD").exists() and all(map(self._has, commits))

    def newest(self, branch: str, base: str, head: str) -> str | None:
        """Returns the clone's newest commit of a branch, None if the clone is to be fetched first.

        Args:
            branch: The branch.
            base: A commit that must be in it.
            head: Another commit that the clone must have.
        """
        if not self.has(base, head):
            return None
        ref = f"refs/heads/{branch}"
        held = self._run("merge-base", "--is-ancestor", base, ref, accept=None)
        return self._tip(branch) if held.returncode == 0 else None

    def suspect(self) -> None:
        """Has git check the clone before the next fetch, since reading it failed.

        Raises:
            InfrastructureError: The clone cannot be written to.
        """
        self._touch(_SUSPECTED)

    def _fetch_both(self, branch: str, number: int, head: str) -> str:
        base = self._fetch_branch(branch)
        if self._has(head):
            return base
        self._fetch([f"+refs/pull/{number}/head:{_PULL}"], f"pull request {number}", of_head=True)
        if not self._has(head):
            # Force-pushed meanwhile; hosts keep such commits for a while.
            try:
                self._fetch([head], f"commit {head[:12]}", of_head=True)
            except InfrastructureError as error:
                if error.evidence.rule == HEAD_GONE:
                    raise self._gone(number, head) from error
                raise
        if not self._has(head):
            raise self._gone(number, head)
        return base

    def _fetch_branch(self, branch: str) -> str:
        self._fetch([_branch_spec(branch)], f"branch {branch!r}")
        return self._tip(branch)

    def _tip(self, branch: str) -> str:
        commit = f"refs/heads/{branch}^{{commit}}"
        return self._run("rev-parse", "--verify", commit).stdout.decode().strip()

    def _gone(self, number: int, head: str) -> InfrastructureError:
        now = self._run("rev-parse", "--verify", "--quiet", f"{_PULL}^{{commit}}", accept=(0, 1))
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
        # With all that the refs do not have: a killed git may have left a part of it.
        connected = ("rev-list", "--objects", "--quiet", commit, "--not", "--all")
        return self._run(*connected, accept=None).returncode == 0

    def _healed(self, work: Callable[[], T]) -> T:
        """Does the work; if it fails because the clone is damaged, makes that anew first."""
        try:
            return work()
        except InfrastructureError as error:
            gone = error.evidence.rule == HEAD_GONE
            if gone or not self._remote_answers() or not self._is_damaged():
                raise
        self._make_anew()
        return work()

    def _remote_answers(self) -> bool:
        return self._run("ls-remote", "--quiet", self.url, "HEAD", accept=None).returncode == 0

    def _is_damaged(self) -> bool:
        """Has git check all objects and refs, unless it has just done so."""
        if self._age(_CHECKED) < _CHECKED_EVERY:
            return False
        # First, so that a check that does not end is not tried again at each fetch.
        self._touch(_CHECKED)
        (self.directory / _SUSPECTED).unlink(missing_ok=True)
        checked = self._run("fsck", "--no-dangling", "--no-progress", accept=None)
        # One that was killed, for want of memory or by hand, has found nothing.
        if is_damaged := checked.returncode > 0:
            _log.warning("%s is damaged: %s", self.directory, last_line(checked.stderr))
        return is_damaged

    def _make_anew(self) -> None:
        try:
            healing.move_away(self.directory)
        except OSError as error:
            raise self._not_writable(error) from error
        self._init()
        self._on_recovery(Recovery.ANEW)

    def _init(self) -> None:
        self._run("init", "--quiet", "--bare")
        self._touch(_MAINTAINED)

    def _maintain_if_due(self) -> None:
        try:
            if self._age(_MAINTAINED) > _MAINTAINED_EVERY:
                # First, since a maintenance that fails is not tried again at once.
                self._touch(_MAINTAINED)
                self._maintain()
            elif len(list(self.directory.glob("objects/pack/*.pack"))) > _MAX_PACKS:
                self._run("repack", "-d", "--quiet", "--geometric=2")
        except (InfrastructureError, OSError) as error:
            # The fetch has succeeded. What is damaged is found by the check before the next one.
            _log.warning("maintenance of %s: %s", self.directory, error)
            self.suspect()

    def _maintain(self) -> None:
        oldest = f"{_today() - _KEPT:%Y%m%d}"
        # `refs/pull`: of earlier versions, one for each pull request.
        listed = self._run("for-each-ref", "--format=%(refname)", "refs/keep", "refs/pull")
        outdated = [
            name
            for name in listed.stdout.decode().splitlines()
            if name.startswith("refs/pull/") or name.split("/")[2] < oldest
        ]
        self._run("update-ref", "--stdin", text="".join(f"delete {name}\n" for name in outdated))
        self._run("gc", "--quiet", f"--prune={_PRUNED}")
        damaged = healing.damaged_copy(self.directory)
        if (
            damaged.exists()
            and time.time() - damaged.stat().st_mtime > _DAMAGED_KEPT.total_seconds()
        ):
            rmtree(damaged)

    def _age(self, mark: str) -> timedelta:
        """Returns how long ago something was done; long if never."""
        try:
            return timedelta(seconds=time.time() - (self.directory / mark).stat().st_mtime)
        except FileNotFoundError:
            return timedelta.max

    def _touch(self, mark: str) -> None:
        try:
            (self.directory / mark).touch()
        except OSError as error:
            raise self._not_writable(error) from error

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
        """Holds the clone's lock; makes the clone if it is not there, and repairs it."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / healing.LOCK).open("w")
        except OSError as error:
            raise self._not_writable(error) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self._repair()
            except OSError as error:
                raise self._not_writable(error) from error
            yield

    def _repair(self) -> None:
        if healing.remove_leftovers(self.directory):
            self._on_recovery(Recovery.LEFTOVERS)
        if healing.remove_torn_layout(self.directory):
            self._init()
        if healing.remove_torn_refs(self.directory):
            self._on_recovery(Recovery.REFS)
        if (self.directory / _SUSPECTED).exists() and self._is_damaged():
            self._make_anew()

    def _not_writable(self, error: OSError) -> InfrastructureError:
        return InfrastructureError(
            f"cannot write to {self.directory}: {error.strerror}", cause=Cause.REPOSITORY_STATE
        )

    def _run(
        self, *arguments: str, accept: Container[int] | None = (0,), text: str = ""
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
            prefix=_DIES_WITH_US,
            text=text,
        )


def require_url(url: str) -> None:
    """Checks that a URL is one to fetch from, and that it may be shown.

    Raises:
        UsageError: It is not, without the URL.
    """
    if not _URL.match(url):
        raise UsageError(
            "OPAM_CI_GITHUB_CLONE_URL is not an https, ssh, git or file URL without a password: "
            "git reads credentials from its own configuration (docs/github.md)"
        )


def upstream_in(
    clones: Path,
    owner: str,
    repo: str,
    url: str,
    on_recovery: Callable[[Recovery], None] = lambda _: None,
) -> Upstream:
    """Returns the clone of a repository on GitHub among those that a worker keeps."""
    return Upstream(clones / owner.lower() / f"{repo.lower()}.git", url, on_recovery)


def _today() -> date:
    return datetime.now(UTC).date()


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
