"""What workflows know: the input of each, and of its next run when it continues as new."""

from pydantic import AwareDatetime, Field

from opam_ci.core.github.debounce import Posted
from opam_ci.core.github.messages import BaseMoved
from opam_ci.core.github.ordering import LatestEvent
from opam_ci.core.github.posting_options import PostingOptions
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.jobs.hold import Approval, Hold
from opam_ci.core.jobs.messages import revision_key
from opam_ci.core.jobs.moved_base import BaseChanged
from opam_ci.core.jobs.outcome import CancelledBy
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.requests import PullRequestRef, Revision
from opam_ci.core.jobs.summary import JobStatus, PlatformStanding
from opam_ci.core.model import State
from opam_ci.core.platforms.model import Platform
from opam_ci.core.submission.effect import Effect
from opam_ci.core.submission.inputs import HeadInputs
from opam_ci.core.submission.result import Packages


class PlatformState(State):
    """What a PlatformWorkflow knows; its input.

    Attributes:
        pull_request: To whom the jobs belong.
        parent: Workflow that gets signals of progress; None for a benchmark.
        revision: The head under test, and how it is checked.
        opened_at: When the testing of this head began.
        name: Name of the platform; empty for lint.
        platform: Where to build; None for lint.
        repository: With which packages; None for lint.
        base_repository: With those of the base alone, for jobs on the base.
        packages: What the analysis found, for lint and for listing reverse dependencies.
        merge_tree: The merged tree.
        standing: Standing of its jobs, None before they were counted.
        sequence: Number of the last record written to the index.
        handled: Number of the newest signal of its parent.
        write_requested: Number of the newest request to record everything.
        notice: Message to users about the platform's image.
        listed: Messages to users about listings of reverse dependencies, by package.
        approved: Whether no limit of the author applies.
        stopping: Whether it ends, and by whom it was stopped.
    """

    pull_request: PullRequestRef
    parent: str | None
    revision: Revision
    opened_at: AwareDatetime
    name: str
    platform: Platform | None
    repository: RepositoryRef | None
    base_repository: RepositoryRef | None = None
    packages: Packages = ()
    merge_tree: str | None = None
    standing: PlatformStanding | None = None
    sequence: int = 0
    handled: int = 0
    write_requested: int = 0
    notice: str | None = None
    listed: dict[str, str] = Field(default_factory=dict)
    approved: bool = False
    stopping: CancelledBy | None = None

    @property
    def key(self) -> RevisionKey:
        """The testing's name in the index."""
        return revision_key(self.pull_request, self.revision.head, self.opened_at)


class TestingState(State):
    """What a PullRequestWorkflow knows of the head that it tests.

    Attributes:
        revision: The head, with the base that the analysis found where it looks for one.
        posting: How its results are posted to GitHub, None for not at all.
        effect: What it does to other packages, None if that is not decided (yet).
        opened_at: When the testing of this head began.
        analysis: The row of the analysis.
        packages: What the analysis found.
        merge_tree: The merged tree.
        inputs: What its jobs work on, None before that is known.
        repository: The merged repository in the store.
        base_repository: The base in the store, without the head.
        platforms: Those to build on, with their images by digest where they were found.
        planned: Whether the jobs are in the index.
        concluded: Whether what only all platforms together can decide is decided.
        round: Number of the newest round of any job: one more for each restart.
        restart_budget_used: Cost of automatic restarts since the last manual one.
        children: The PlatformWorkflow that runs the jobs of each platform.
        awaited: For each of these workflows, the newest signal after which it reads the index
            again.
        signals_sent: Number of numbered signals that were sent to them.
        batch: How many PlatformWorkflows were started for this head.
        standings: Standing of the jobs of each platform.
        notices: Messages to users about images and listings.
        approved: Whether no limit of the author applies: somebody with rights said so.
        holds: Why jobs of a platform wait, by platform.
        estimated_until: By when all is decided, as was estimated first; None for no estimate.
    """

    __test__ = False

    revision: Revision
    posting: PostingOptions | None = None
    effect: Effect | None = None
    opened_at: AwareDatetime
    analysis: JobStatus
    packages: Packages = ()
    merge_tree: str | None = None
    inputs: HeadInputs | None = None
    repository: RepositoryRef | None = None
    base_repository: RepositoryRef | None = None
    platforms: tuple[Platform, ...] = ()
    planned: bool = False
    concluded: bool = True
    round: int = 1
    restart_budget_used: int = 0
    children: dict[str, str] = Field(default_factory=dict)
    awaited: dict[str, int] = Field(default_factory=dict)
    signals_sent: int = 0
    batch: int = 0
    standings: dict[str, PlatformStanding] = Field(default_factory=dict)
    notices: tuple[str, ...] = ()
    approved: bool = False
    holds: dict[str, Hold] = Field(default_factory=dict)
    estimated_until: AwareDatetime | None = None


class PullRequestState(State):
    """What a PullRequestWorkflow knows; its input.

    Attributes:
        pull_request: Which.
        testing: The head that it tests, None until the first `head_changed`.
        sequence: Number of the last record written to the index.
        notices: Messages to users that are not verdicts.
        latest_event: The newest event of the pull request on GitHub.
        posted: By `Status.key`, what was posted last.
        approval: The newest approval, None for none.
        author_restarts: When the author restarted jobs last.
        new_base: The newest base that the head is yet to be merged into, None for none.
    """

    pull_request: PullRequestRef
    testing: TestingState | None = None
    sequence: int = 0
    notices: list[str] = Field(default_factory=list)
    latest_event: LatestEvent | None = None
    posted: dict[str, Posted] = Field(default_factory=dict)
    approval: Approval | None = None
    author_restarts: list[AwareDatetime] = Field(default_factory=list)
    new_base: BaseChanged | None = None


class BaseBranchState(State):
    """What a BaseBranchWorkflow knows; its input.

    Attributes:
        followed: The commit of which pull requests were notified last, None for none.
        moved: The newest signal that the base has moved since then, or may have; None for none.
    """

    followed: str | None = None
    moved: BaseMoved | None = None
