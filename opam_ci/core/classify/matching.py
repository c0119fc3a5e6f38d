"""How several rules decide: the strongest class that matches, and in it the first line."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from opam_ci.core.classify.lines import Line
from opam_ci.core.classify.rule import AFTER_LINES, PASSED_BY, Rule, RuleClass, Verdict
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason, LogLine, SkipReason
from opam_ci.core.model import Frozen

MOST_LINES = 5
"""Lines of evidence in a verdict: enough to show it, few enough for a status page."""

NO_RULE = "no-rule"
"""The rule id of a verdict without a rule."""

_PLACED = frozenset({*PASSED_BY, *PASSED_BY.values()})
"""Classes of which the place of the last match matters."""


class TextVerdict(Frozen):
    """The verdict on a text alone.

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
    rationale: str = "No rule matches this text, and an unknown text is not a failure."
    lines: tuple[LogLine, ...] = ()
    numbers: tuple[int, ...] = ()
    package: str | None = None


class Rulebook:
    """Rules in the order in which they decide: by class, then by file and place in it.

    Attributes:
        rules: The rules.
        by_id: The same, by id.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: rule.kind.rank))
        self.by_id = {rule.id: rule for rule in self.rules}

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def of(self, *kinds: RuleClass) -> tuple[Rule, ...]:
        """Return the rules of some classes."""
        return tuple(rule for rule in self.rules if rule.kind in kinds)

    def first_match(
        self, lines: Sequence[Line], phase: Phase | None, among: Sequence[Rule] | None = None
    ) -> TextVerdict | None:
        """Return the verdict of the strongest rule that matches, None if none does.

        Args:
            lines: The text.
            phase: Phase that it is from; None makes every rule a candidate.
            among: Rules that may decide, in their order; all by default.
        """
        matches = _Matches(self, lines, phase)
        candidates = self.rules if among is None else among
        for _, rules in groupby(candidates, lambda rule: rule.kind):
            if found := [rule for rule in rules if matches.decides(rule)]:
                first = min(found, key=lambda rule: matches.of(rule)[0].number)
                return _verdict_of(first, matches.of(first))
        return None


class _Matches:
    """The rules that match in a text, found on demand and only once."""

    def __init__(self, book: Rulebook, lines: Sequence[Line], phase: Phase | None) -> None:
        self._book = book
        self._lines = lines
        self._phase = phase
        self._text = "\n".join(line.lower for line in lines)
        self._found: dict[str, tuple[Line, ...]] = {}
        self._last: dict[str, int] = {}

    def of(self, rule: Rule) -> tuple[Line, ...]:
        """Return the first lines that a rule matches, at most `MOST_LINES`."""
        if rule.id not in self._found:
            self._found[rule.id] = self._search(rule) if rule.holds_in(self._phase) else ()
        return self._found[rule.id]

    def decides(self, rule: Rule) -> bool:
        """Whether a rule matches, and nothing shows that opam continued after it."""
        return bool(self.of(rule)) and not self._is_passed(rule)

    def _is_passed(self, rule: Rule) -> bool:
        by = PASSED_BY.get(rule.kind)
        if by is None:
            return False
        if by is RuleClass.REPORT and any(map(self.decides, self._book.of(RuleClass.MISSING))):
            return False
        return any(
            self.of(other) and self._last[other.id] > self._last[rule.id]
            for other in self._book.of(by)
        )

    def _search(self, rule: Rule) -> tuple[Line, ...]:
        texts = [text for text in rule.literals if text in self._text]
        if (rule.literals and not texts) or self._is_excepted(rule):
            return ()
        found: list[Line] = []
        allowed = self._allowed(rule)
        counts = {each: rule.counts(of_package=each) for each in (False, True)}
        for at, line in enumerate(self._lines):
            if (line.quoted and not rule.quoted) or not counts[line.of_package]:
                continue
            if (
                (not texts or any(text in line.lower for text in texts))
                and rule.compiled.search(line.text)
                and (allowed is None or allowed[at])
            ):
                self._last[rule.id] = line.number
                found.append(line)
                if len(found) == MOST_LINES and rule.kind not in _PLACED:
                    break
        return tuple(found[:MOST_LINES]) if len(found) >= rule.at_least else ()

    def _is_excepted(self, rule: Rule) -> bool:
        return rule.unless is not None and any(
            re.search(rule.unless, line.text) for line in self._lines
        )

    def _allowed(self, rule: Rule) -> list[bool] | None:
        """Return for each line whether `after` matched shortly before it; None without `after`."""
        after = rule.compiled_after
        if after is None:
            return None
        allowed, left = [], 0
        for line in self._lines:
            allowed.append(left > 0)
            left = AFTER_LINES if after.search(line.text) else left - 1
        return allowed


def _verdict_of(rule: Rule, found: Sequence[Line]) -> TextVerdict:
    """Make a verdict of a rule and the lines that it matched."""
    named = rule.compiled.search(found[0].text)
    return TextVerdict(
        outcome=rule.verdict,
        reason=rule.reason,
        cause=rule.cause,
        rule=rule.id,
        rationale=rule.why,
        lines=tuple(line.as_evidence() for line in found),
        numbers=tuple(line.number for line in found),
        package=named.groupdict().get("package") if named else None,
    )
