"""Heads and jobs in paths, as in those of their pages, and how they are found."""

from opam_ci.clients.index import Index
from opam_ci.clients.remote.queries import CommitHash, PullNumber, Text
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.model import Frozen
from opam_ci.web.addresses import job_id
from opam_ci.web.refusal import RefusedError
from opam_ci.web.sources import PageSources


class HeadPath(Frozen):
    """The newest head of a pull request or of a branch of a local clone, or a commit under test.

    One of `number`, `branch` and `commit` is in the path.

    Attributes:
        owner: Owner of the repository; `local` for a local clone.
        repo: Name of the repository.
    """

    owner: Text
    repo: Text

    @property
    def repository(self) -> str:
        """Owner and name."""
        return f"{self.owner}/{self.repo}"

    @property
    def target(self) -> str | None:
        """As in `RevisionKey.target`; None for any."""
        return None

    @property
    def head(self) -> str | None:
        """A commit, or its beginning; None for the newest."""
        return None


class PullPath(HeadPath):
    """A pull request.

    Attributes:
        number: Number of the pull request.
    """

    number: PullNumber

    @property
    def target(self) -> str:
        """As in `RevisionKey.target`."""
        return f"pull/{self.number}"


class BranchPath(HeadPath):
    """A branch of a local clone.

    Attributes:
        branch: Name of the branch.
    """

    branch: Text

    @property
    def target(self) -> str:
        """As in `RevisionKey.target`."""
        return f"heads/{self.branch}"


class CommitPath(HeadPath):
    """A commit under test.

    Attributes:
        commit: Its hash, or at least seven characters of it.
    """

    commit: CommitHash

    @property
    def head(self) -> str:
        """The commit."""
        return self.commit


class JobPath(HeadPath):
    """A job of a head.

    Attributes:
        job: Its name as in the address of its page, such as
            `build,debian-13-ocaml-5.3@amd64,cppo.1.8.0`.
    """

    job: Text

    @property
    def job_id(self) -> str:
        """Its id.

        Raises:
            RefusedError: No job has this name.
        """
        try:
            return job_id(self.job)
        except ValueError as error:
            raise no_such_job(self.job) from error


class PullJobPath(PullPath, JobPath):
    """A job of a pull request."""


class BranchJobPath(BranchPath, JobPath):
    """A job of a branch of a local clone."""


class CommitJobPath(CommitPath, JobPath):
    """A job of a commit under test."""


HEADS: tuple[tuple[str, type[HeadPath], type[JobPath]], ...] = (
    ("/{owner}/{repo}/pull/{number:int}", PullPath, PullJobPath),
    ("/{owner}/{repo}/commit/{commit}", CommitPath, CommitJobPath),
    ("/{owner}/{repo}/heads/{branch:path}", BranchPath, BranchJobPath),
)
"""Paths of heads, as those of their pages."""


async def find_head(sources: PageSources, path: HeadPath) -> RevisionKey:
    """Finds the newest testing of a head.

    Raises:
        RefusedError: There is none.
        UsageError: Several commits begin so.
        InfrastructureError: The index is away.
    """
    key = await sources.ask(Index.find_head, path.repository, target=path.target, head=path.head)
    if key is None:
        raise not_tested(path)
    return key


def no_such_job(job: str) -> RefusedError:
    """Returns the refusal of a request about a job that a head does not have."""
    return RefusedError(404, f"no job {job[:200]!r} of this head: its jobs are listed at …/jobs")


def not_tested(path: HeadPath) -> RefusedError:
    """Returns the refusal of a request about a head that is not in the index."""
    return RefusedError(
        404,
        f"no test of {path.target or path.head} of {path.repository} (yet): /api/v1/pulls lists "
        "what there is",
    )
