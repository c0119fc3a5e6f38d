"""The rules as a page that people read."""

from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules import RULES

_INTRODUCTION = """\
# Classification: the text rules

Written by `opam-ci classify --rules`; the rules are in `opam_ci/core/classify/rules/`.

A log is judged by its words only where facts leave something open: exit codes, signals, the
kernel's counters, free space, time limits, opam's own report and the phase come first (see
`opam_ci/core/classify/judge.py`). The first rule of this list that matches a line, and
does not yield, decides. A rule yields when one of the rules that it names matches as well,
or, where it can be overtaken, matches further down; its counter-examples show what happens
then. Lines that only quote something (an echoed script, a difference between expected and
actual output, a source line in a compiler's message) say nothing. A text that no rule knows
is `unknown`, which in a job becomes `errored(unknown)`: never a failure, never green.

"""


def rules_markdown() -> str:
    """Returns the page with all rules, in their order."""
    return _INTRODUCTION + "\n".join(
        _section(number, rule) for number, rule in enumerate(RULES, start=1)
    )


def _section(number: int, rule: Rule) -> str:
    parts = [f"## {number}. `{rule.id}`: {rule.what}\n", f"{rule.rationale}\n"]
    if rule.phases:
        parts.append(f"Only in: {', '.join(sorted(rule.phases))}.\n")
    if rule.outside:
        parts.append("Not in the output of a package's own command.\n")
    if rule.at_least > 1:
        parts.append(f"At least {rule.at_least} lines must match.\n")
    if rule.yields_to:
        parts.append(f"Yields to: {', '.join(f'`{name}`' for name in rule.yields_to)}.\n")
    if rule.overtaken_by:
        names = ", ".join(f"`{name}`" for name in rule.overtaken_by)
        parts.append(f"Overtaken by what follows: {names}.\n")
    parts.append(f"Example:\n\n{_quote(rule.example)}")
    parts += [
        f"Not when ({counter.verdict}):\n\n{_quote(counter.text)}"
        for counter in rule.counter_examples
    ]
    return "\n".join(parts)


def _quote(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.split("\n"))
