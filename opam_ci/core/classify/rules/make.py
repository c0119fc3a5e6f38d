"""Short ways to write a rule down, one for each kind of verdict."""

from collections.abc import Iterable

from opam_ci.core.classify.rule import CounterExample, Rule, Verdict
from opam_ci.core.job import Phase
from opam_ci.core.outcome import Cause, FailureReason, SkipReason


def rule(  # noqa: PLR0913 - a rule has as many parts, and every one is named where it is written
    rule_id: str,
    what: Cause | FailureReason | SkipReason | None,
    *alternatives: str,
    words: str,
    why: str,
    example: str,
    after: str | None = None,
    at_least: int = 1,
    phases: Iterable[Phase] = (),
    yields_to: Iterable[str] = (),
    overtaken_by: Iterable[str] = (),
    quoted: bool = False,
    inside: bool = False,
    not_when: Iterable[tuple[Verdict, str]] = (),
) -> Rule:
    """Makes a rule; what it decides follows from the type of `what` (None: undecided).

    Args:
        rule_id: Its id.
        what: A cause makes it `errored`, a failure's reason `failed`, a skip's `skipped`.
        alternatives: Regular expressions for one cleaned line, any of which is enough.
        words: Lower-case words, separated by `|`, one of which every such line has.
        why: The rationale.
        example: A text that it decides.
        after: As `Rule.after`.
        at_least: As `Rule.at_least`.
        phases: As `Rule.phases`.
        yields_to: As `Rule.yields_to`.
        overtaken_by: As `Rule.overtaken_by`.
        quoted: As `Rule.quoted`.
        inside: As `Rule.inside`.
        not_when: Counter-examples: what they come to instead, and their text.
    """
    verdict: Verdict = "unknown"
    match what:
        case Cause():
            verdict = "errored"
        case FailureReason():
            verdict = "failed"
        case SkipReason():
            verdict = "skipped"
        case None:
            pass
    return Rule(
        id=rule_id,
        verdict=verdict,
        reason=what if isinstance(what, FailureReason | SkipReason) else None,
        cause=what if isinstance(what, Cause) else None,
        words=tuple(words.split("|")),
        pattern="|".join(alternatives),
        after=after,
        at_least=at_least,
        phases=frozenset(phases),
        yields_to=tuple(yields_to),
        overtaken_by=tuple(overtaken_by),
        quoted=quoted,
        inside=inside,
        rationale=why,
        example=example,
        counter_examples=tuple(
            CounterExample(text=text, verdict=verdict) for verdict, text in not_when
        ),
    )


def of_opam(*rules: Rule) -> tuple[Rule, ...]:
    """Returns rules about opam's own words, which leave a package's output alone.

    A package may be a tool about packages, and print the same words in its tests.

    Args:
        rules: Rules, each of which sees everything.
    """
    return tuple(one.model_copy(update={"outside": True}) for one in rules)
