"""Commit statuses: from a summary to the status of each context."""

from enum import StrEnum

from pydantic import Field

from opam_ci.core.github.model import HEAD_GONE, Sha
from opam_ci.core.jobs.job import BASE_KINDS, REVDEP_KINDS, JobKind
from opam_ci.core.jobs.summary import REPOSITORY_JOBS, State, Summary, total
from opam_ci.core.model import Frozen
from opam_ci.core.printable import clip
from opam_ci.core.text.sentence import STATUS_LIMIT, sentence

_REVDEP_JOBS = REVDEP_KINDS | {JobKind.LIST_REVDEPS}
_COMPARED = _REVDEP_JOBS | BASE_KINDS


class About(StrEnum):
    """Which jobs a context is about."""

    OVERALL = "overall"
    """All jobs but those of advisory contexts."""
    LINTER = "linter"
    """The repository jobs: analysis and lint."""
    REVDEPS = "revdeps"
    """Reverse dependencies, and the jobs that list them."""


class Context(Frozen):
    """One status under a head on GitHub.

    Attributes:
        about: Which jobs it is about.
        name: Its name on GitHub, for people and branch protection.
        advisory: Whether its jobs are left out of the overall context, so that a branch
            protection that requires the overall one does not require them. Analysis and lint
            cannot be left out, since all else depends on the analysis.
    """

    about: About
    name: str = Field(min_length=1, max_length=100)
    advisory: bool = False


DEFAULT_CONTEXTS = (
    Context(about=About.OVERALL, name="opam-ci"),
    Context(about=About.LINTER, name="opam-ci / lint"),
    Context(about=About.REVDEPS, name="opam-ci / revdeps"),
)
"""The contexts unless configured otherwise."""


class Channel(StrEnum):
    """As what GitHub shows the state of a context."""

    STATUS = "status"
    CHECK_RUN = "check run"


class Status(Frozen):
    """The state of one context: posted as a commit status, or as the head of a check run.

    Attributes:
        channel: As which of the two.
        context: Name of its context.
        sha: Commit it is about: always a head, never a merge.
        state: GitHub's state.
        description: At most 140 characters.
        target_url: URL of details, None for no link.
    """

    channel: Channel = Channel.STATUS
    context: str
    sha: Sha
    state: State
    description: str = Field(max_length=STATUS_LIMIT)
    target_url: str | None = None

    @property
    def key(self) -> str:
        """Its name among all that is posted for a pull request."""
        is_status = self.channel is Channel.STATUS
        return self.context if is_status else f"{self.channel}: {self.context}"


def statuses(
    summary: Summary,
    *,
    contexts: tuple[Context, ...] = DEFAULT_CONTEXTS,
    maximum_attempts: int | None,
    target_url: str | None = None,
) -> tuple[Status, ...]:
    """Returns the statuses of a head, one for each context, in their order.

    Args:
        summary: Its state; one without a head has no statuses.
        contexts: The contexts.
        maximum_attempts: Attempts of a job.
        target_url: Page of the pull request.
    """
    if not summary.head:
        return ()
    return tuple(
        status_of(
            part_of(summary, context, contexts),
            context,
            maximum_attempts=maximum_attempts,
            target_url=target_url,
        )
        for context in contexts
    )


def status_of(
    part: Summary, context: Context, *, maximum_attempts: int | None, target_url: str | None = None
) -> Status:
    """Returns the status of one context.

    Args:
        part: Summary of its jobs, see `part_of`.
        context: The context.
        maximum_attempts: Attempts of a job.
        target_url: Page of the pull request.
    """
    return Status(
        context=context.name,
        sha=part.head,
        state=part.state,
        description=_description(part, context, maximum_attempts),
        target_url=target_url,
    )


def part_of(summary: Summary, context: Context, contexts: tuple[Context, ...]) -> Summary:
    """Returns the summary of the jobs that a context is about.

    Args:
        summary: Of all jobs.
        context: The context.
        contexts: All contexts, to know which are advisory.
    """
    match context.about:
        case About.OVERALL:
            left_out = {other.about for other in contexts if other.advisory}
            if About.REVDEPS not in left_out:
                return summary
            part = summary.of_kinds(frozenset(JobKind) - _REVDEP_JOBS)
            return part.model_copy(update={"effect": summary.effect})
        case About.LINTER:
            part = _without_builds(summary.of_kinds(REPOSITORY_JOBS))
            return part.model_copy(update={"hold": None})
        case About.REVDEPS:
            if summary.planned and summary.is_analysed:
                listed = any(each.kind in _REVDEP_JOBS for each in summary.tallies)
                # Which of the platforms without workers would have listed some is not known.
                unserved = frozenset() if listed else frozenset({JobKind.PLATFORM})
                part = summary.of_kinds(_COMPARED | unserved)
                # Failures wait for the comparison with the base.
                return part if total(part.tallies).failed else _without_builds(part)
            # Without an analysis it is not known whether there are reverse dependencies: a
            # context without any job would be green.
            return _without_builds(summary.of_kinds(_REVDEP_JOBS | {JobKind.ANALYSIS}))


def _without_builds(part: Summary) -> Summary:
    """Returns a part that does not wait for the comparison across platforms, which is of builds."""
    return part.model_copy(update={"concluded": True})


def _nothing(part: Summary, context: Context) -> str | None:
    """Returns the text of a success for which nothing ran, None if something did."""
    if part.state is not State.SUCCESS:
        return None
    kinds = {each.kind for each in part.tallies}
    if context.about is About.REVDEPS:
        return None if part.ran.total else "No reverse dependencies were to be built"
    if kinds == {JobKind.ANALYSIS} and not part.packages:
        return "Changes no package: nothing to build or to lint"
    return None


def _gone(part: Summary) -> str | None:
    """Returns the text for a head that certainly does not exist on GitHub any more, else None."""
    gone = any(
        job.outcome is not None
        and job.outcome.kind == "errored"
        and job.outcome.evidence.rule == HEAD_GONE
        for job in part.jobs
    )
    if part.state is not State.ERROR or not gone:
        return None
    return "Commit not found on GitHub: push again, or comment /opam-ci restart errors"


def _description(part: Summary, context: Context, maximum_attempts: int | None) -> str:
    text = (
        _nothing(part, context)
        or _gone(part)
        or sentence(
            part,
            limit=STATUS_LIMIT,
            maximum_attempts=maximum_attempts,
            builds=context.about is not About.LINTER,
        )
    )
    return clip(f"Advisory: {text}", STATUS_LIMIT) if context.advisory else text
