"""A base that moved: what the workflow of an open pull request is sent, and what follows."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from opam_ci.core.jobs.outcome import Failed, FailureReason, Outcome, Passed, Readable
from opam_ci.core.model import Frozen
from opam_ci.core.submission.inputs import HeadInputs

_SHA = r"^[0-9a-f]{40}([0-9a-f]{24})?\z"


class BaseChanged(Frozen):
    """Argument of the signal `base_changed`.

    Attributes:
        base: The newest commit of the base branch.
        retest_interval: How often at most a head is tested again only since its dependencies have
            changed.
    """

    base: str = Field(pattern=_SHA)
    retest_interval: timedelta = Field(ge=timedelta(0))


class BaseLook(Frozen):
    """What the merge of a head into a moved base comes to.

    Attributes:
        base: Commit into which the head was merged: the one of the signal, or a newer one.
        failure: Why the analysis refuses the head, None if it does not.
        inputs: What its jobs would work on; None if it is refused.
    """

    base: str = Field(pattern=_SHA)
    failure: Readable | None = None
    inputs: HeadInputs | None = None


Difference = Literal["nothing", "analysis", "dependencies"]


_FAILURES = frozenset({FailureReason.MERGE_CONFLICT, FailureReason.ANALYSIS})


def depends_on_base(analysis: Outcome | None) -> bool:
    """Whether another base can change what the analysis of a head found.

    Not that of one that was cancelled or errored, or at which workers died: a restart is needed,
    which merges into the newest base anyway.
    """
    match analysis:
        case Passed():
            return True
        case Failed(reason=reason):
            return reason in _FAILURES
        case _:
            return False


def difference(analysis: Outcome, known: HeadInputs | None, look: BaseLook) -> Difference:
    """Returns what of a decided head is different on a moved base.

    Args:
        analysis: Outcome of its analysis, for which `depends_on_base` is true.
        known: What its jobs worked on; None for a head that an older version tested.
        look: The merge into the moved base.

    Returns:
        `analysis` if the head is refused, or no longer, or for another reason, or if its packages
        differ; `dependencies` if only what the solver can read for them does.
    """
    failure = analysis.evidence.detail or "" if isinstance(analysis, Failed) else None
    if failure != look.failure:
        return "analysis"
    if known is None or look.inputs is None:
        return "nothing"
    if known.changes != look.inputs.changes:
        return "analysis"
    is_same = None in {known.reach, look.inputs.reach} or known.reach == look.inputs.reach
    return "nothing" if is_same else "dependencies"


def is_tested_again(
    found: Difference, moved: BaseChanged, opened_at: datetime, now: datetime
) -> bool:
    """Whether a head is tested again for what is different on a moved base.

    Args:
        found: The difference.
        moved: The signal.
        opened_at: When the head's last testing began.
        now: The time.
    """
    if found == "dependencies":
        return now - opened_at >= moved.retest_interval
    return found == "analysis"
