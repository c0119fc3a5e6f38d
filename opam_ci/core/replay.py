"""Judging an attempt anew: what is kept for it, and what changed rules make of it."""

from collections.abc import Mapping

from opam_ci.core.classify import judge
from opam_ci.core.facts import BuildFacts
from opam_ci.core.job import Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Errored, Failed, Outcome, Passed, Skipped, label


class Judged(Frozen):
    """An attempt as it was judged, kept beside its log.

    Together with the log it is all that the judge had, so that changed rules can be tried on
    it later.

    Attributes:
        facts: What the runner observed.
        outcome: What the judge made of it then.
    """

    facts: BuildFacts
    outcome: Outcome


class Replay(Frozen):
    """One attempt, judged then and now.

    Attributes:
        before: What the judge said then.
        now: What it says now.
    """

    before: Outcome
    now: Outcome

    @property
    def flips(self) -> bool:
        """Whether the verdict changed: its kind, its reason or cause, or who is to blame."""
        return _verdict(self.before) != _verdict(self.now)

    @property
    def rules_differ(self) -> bool:
        """Whether another rule decides, be the verdict the same or not."""
        return rule_of(self.before) != rule_of(self.now)


def replay(judged: Judged, logs: Mapping[Phase, str]) -> Replay:
    """Judges an attempt anew.

    Args:
        judged: What was kept of it.
        logs: Text of each phase, as the judge had it then (see `core/classify/cut.py`).
    """
    return Replay(before=judged.outcome, now=judge(judged.facts, logs))


def rule_of(outcome: Outcome) -> str | None:
    """Returns the rule that decided an outcome, None for one without evidence."""
    match outcome:
        case Passed() | Failed() | Skipped() | Errored():
            return outcome.evidence.rule
        case _:
            return None


def _verdict(outcome: Outcome) -> tuple[str, str | None]:
    return label(outcome), outcome.blame if isinstance(outcome, Failed) else None
