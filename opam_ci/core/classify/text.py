"""Judges a text by the ordered rules: for logs without facts, and for what facts leave open."""

from collections.abc import Iterable, Sequence

from opam_ci.core.classify.attribution import attribute
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.classify.lines import Line, clean
from opam_ci.core.classify.rule import AFTER_LINES, Rule, Verdict
from opam_ci.core.classify.rules import RULES
from opam_ci.core.job import PACKAGE_PHASES, Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, FailureReason, LogLine, SkipReason

MOST_LINES = 5
"""Lines of evidence in a verdict: enough to see it, few enough for a status page."""

_OF_SOMEBODY = {
    FailureReason.BUILD,
    FailureReason.TEST,
    FailureReason.SOURCE,
    FailureReason.CHECKSUM,
}
"""Reasons that may be a dependency's as well as the package's own."""

_PLACED = frozenset(
    name for rule in RULES if rule.overtaken_by for name in (rule.id, *rule.overtaken_by)
)
"""Rules of which it matters where they match last."""

NO_RULE = "no-rule"
"""The rule id of a verdict that no rule gave."""


class TextVerdict(Frozen):
    """What a text alone says.

    Attributes:
        outcome: Never `passed`.
        reason: For `failed` and `skipped`.
        cause: For `errored`.
        rule: Id of the rule that decided, `no-rule` if none did.
        rationale: Why that rule decides so.
        lines: The lines that show it.
        numbers: Their line numbers in the text, from 1.
        package: The package at fault, where the lines name one.
    """

    outcome: Verdict
    reason: FailureReason | SkipReason | None = None
    cause: Cause | None = None
    rule: str = NO_RULE
    rationale: str = "No rule knows these words, and what is not known is not called a failure."
    lines: tuple[LogLine, ...] = ()
    numbers: tuple[int, ...] = ()
    package: str | None = None


class Matches:
    """Which rules match in a text, found on demand and only once."""

    def __init__(self, lines: Sequence[Line], rules: Iterable[Rule] = RULES) -> None:
        self._lines = lines
        self._by_id = {rule.id: rule for rule in rules}
        self._text = "\n".join(line.lower for line in lines)
        self._found: dict[str, tuple[Line, ...]] = {}
        self._last: dict[str, int] = {}

    def of(self, rule: Rule) -> tuple[Line, ...]:
        """Returns the first lines that a rule matches, at most `MOST_LINES`."""
        if rule.id not in self._found:
            self._found[rule.id] = self._search(rule)
        return self._found[rule.id]

    def _search(self, rule: Rule) -> tuple[Line, ...]:
        words = [word for word in rule.words if word in self._text]
        found: list[Line] = []
        if not words:
            return ()
        allowed = self._allowed(rule)
        outside = rule.outside or (bool(rule.phases) and not rule.phases & PACKAGE_PHASES)
        for at, line in enumerate(self._lines):
            if (line.quoted and not rule.quoted) or (outside if line.of_package else rule.inside):
                continue
            if (
                any(word in line.lower for word in words)
                and rule.compiled.search(line.text)
                and (allowed is None or allowed[at])
            ):
                self._last[rule.id] = line.number
                if len(found) < max(MOST_LINES, rule.at_least):
                    found.append(line)
                elif rule.id not in _PLACED:
                    break
        return tuple(found) if len(found) >= rule.at_least else ()

    def _allowed(self, rule: Rule) -> list[bool] | None:
        """Returns for each line whether what must stand before it does; None: nothing must."""
        after = rule.compiled_after
        if after is None:
            return None
        allowed, left = [], 0
        for line in self._lines:
            allowed.append(left > 0)
            left = AFTER_LINES if after.search(line.text) else left - 1
        return allowed

    def yields(self, rule: Rule, phase: Phase | None) -> bool:
        """Returns whether a rule that takes this one's place matches too."""
        return self._overtaken(rule, phase) or any(
            (other := self._by_id[name]).holds_in(phase)
            and self.of(other)
            and not self._overtaken(other, phase)
            for name in rule.yields_to
        )

    def _overtaken(self, rule: Rule, phase: Phase | None) -> bool:
        """Returns whether something further down shows that this was not the end."""
        return any(
            (other := self._by_id[name]).holds_in(phase)
            and self.of(other)
            and self._last[name] > self._last[rule.id]
            and not self.yields(other, phase)
            for name in rule.overtaken_by
        )


def first_match(
    lines: Sequence[Line], phase: Phase | None, rules: Sequence[Rule] = RULES
) -> TextVerdict | None:
    """Returns what the first rule that matches says, None if none does."""
    matches = Matches(lines, RULES)
    for rule in rules:
        if rule.holds_in(phase) and (found := matches.of(rule)) and not matches.yields(rule, phase):
            return verdict_of(rule, found)
    return None


def verdict_of(rule: Rule, found: Sequence[Line]) -> TextVerdict:
    """Makes a verdict of a rule and the lines that it matched."""
    named = rule.compiled.search(found[0].text)
    return TextVerdict(
        outcome=rule.verdict,
        reason=rule.reason,
        cause=rule.cause,
        rule=rule.id,
        rationale=rule.rationale,
        lines=tuple(line.as_evidence() for line in found),
        numbers=tuple(line.number for line in found),
        package=named.groupdict().get("package") if named else None,
    )


def classify_text(text: str, *, exit_code: int | None, phase: Phase | None) -> TextVerdict:
    """Judges a log, or an excerpt of one, by its words alone.

    Args:
        text: The text, escape codes and all.
        exit_code: Exit code of what wrote it, if known.
        phase: Phase it comes from, if known; None makes every rule a candidate.

    Returns:
        The verdict. Words alone cannot prove success, and unknown words prove nothing.
    """
    lines = clean(text)
    verdict = first_match(lines, phase)
    if verdict is None or (verdict.outcome == "unknown" and exit_code in _EXITS):
        verdict = _of_exit(exit_code)
    return blamed(verdict, lines)


_EXITS = {
    OpamExit.LOCKED: Cause.OPAM_INTERNAL,
    OpamExit.CONFIGURATION_ERROR: Cause.OPAM_INTERNAL,
    OpamExit.SOLVER_FAILURE: Cause.SOLVER_TIMEOUT,
    OpamExit.INTERNAL_ERROR: Cause.OPAM_INTERNAL,
}
"""Exit codes that no other program has a use for, and that mean one thing."""


def _of_exit(exit_code: int | None) -> TextVerdict:
    """Judges by an exit code alone, where no word says anything."""
    if exit_code in _EXITS:
        return TextVerdict(
            outcome="errored",
            cause=_EXITS[OpamExit(exit_code)],
            rule=f"exit-{exit_code}",
            rationale="opam's own exit code for a fault that no package can cause.",
        )
    return TextVerdict(outcome="unknown")


def blamed(verdict: TextVerdict, lines: Sequence[Line]) -> TextVerdict:
    """Turns a failure into a dependency's, where the log says that one failed."""
    if verdict.outcome != "failed" or verdict.reason not in _OF_SOMEBODY:
        return verdict
    package = attribute(lines).blame
    if package is None:
        return verdict
    return verdict.model_copy(update={"reason": FailureReason.DEPENDENCY, "package": package})
