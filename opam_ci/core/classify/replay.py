"""Replaying attempts: what is stored of one, and the verdict of today's rules on it."""

from collections.abc import Mapping

from opam_ci.core.classify import judge
from opam_ci.core.jobs.facts import BuildFacts
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Errored, Failed, Outcome, Passed, Skipped, label
from opam_ci.core.model import Frozen


class Judged(Frozen):
    """An attempt and its verdict, stored beside its log.

    Together with the log it is the whole input of the judge, so that changed rules can be
    tried on it later.

    Attributes:
        facts: What the runner observed.
        outcome: The verdict then.
    """

    facts: BuildFacts
    outcome: Outcome


class Replay(Frozen):
    """One attempt, judged then and now.

    Attributes:
        before: The verdict then.
        now: The verdict now.
    """

    before: Outcome
    now: Outcome

    @property
    def flips(self) -> bool:
        """Whether the verdict changed: its kind, its reason or cause, or the package at fault."""
        return _verdict(self.before) != _verdict(self.now)

    @property
    def rules_differ(self) -> bool:
        """Whether another rule decided, whether the verdict changed or not."""
        return rule_of(self.before) != rule_of(self.now)


def replay(judged: Judged, logs: Mapping[Phase, str]) -> Replay:
    """Judge a stored attempt again.

    Args:
        judged: The stored attempt.
        logs: Text of each phase, as the judge had it then (see `core/classify/excerpt.py`).
    """
    return Replay(before=judged.outcome, now=judge(judged.facts, logs))


def rule_of(outcome: Outcome) -> str | None:
    """Return the rule that decided an outcome, None for one without evidence."""
    match outcome:
        case Passed() | Failed() | Skipped() | Errored():
            return outcome.evidence.rule
        case _:
            return None


def _verdict(outcome: Outcome) -> tuple[str, str | None]:
    return label(outcome), outcome.blame if isinstance(outcome, Failed) else None
