"""The rules as a page for people."""

from opam_ci.core.classify.rule import PASSED_BY, Rule, RuleClass
from opam_ci.core.classify.rulebook import RULES, every_rule

_INTRODUCTION = """\
# Classification: the text rules

Written by `opam-ci classify --rules`; the rules are in `opam_ci/core/classify/rules/`, a file for
each tool, and CONTRIBUTING.md describes how to add one.

A log is judged by its text only if facts do not decide: exit codes, signals, the kernel's counters,
free space, time limits, opam's own report and the phase are judged first (see
`opam_ci/core/classify/judge.py`). Rules do not refer to each other: each belongs to a class, and
the strongest class with a matching rule decides; within it, the first matching line in the text.
Lines that only quote something (an echoed script, a difference between expected and actual
output, a source line in a compiler's message) prove nothing. A text that no rule matches is
`unknown`, which in a job becomes `errored(unknown)`: never `failed`, never `passed`.

"""

_ELSEWHERE = """\
# Logs of other CIs

Only `opam-ci classify` uses these: they are about programs and systems that this CI never runs,
and judge none of its jobs.

"""


def rules_markdown() -> str:
    """Return the page with all rules, the strongest class first."""
    others = [rule for rule in every_rule() if rule.id not in RULES.by_id]
    parts = [_INTRODUCTION, _classes(), *map(_section, RULES), _ELSEWHERE]
    return "\n".join([*parts, *map(_section, others)])


def _classes() -> str:
    rows = (f"{number}. **{kind}**: {kind.meaning}\n" for number, kind in enumerate(RuleClass, 1))
    passed = (
        f"- `{kind}` does not decide if `{by}` matches further down: opam continued.\n"
        for kind, by in PASSED_BY.items()
    )
    missing = "- A report further down proves nothing if `missing` matches too.\n"
    return f"## Classes, strongest first\n\n{''.join(rows)}\n{''.join(passed)}{missing}"


def _section(rule: Rule) -> str:
    parts = [f"## `{rule.id}`: {rule.what}\n", f"Class {rule.kind}. {rule.why}\n"]
    if rule.phases:
        parts.append(f"Only in: {', '.join(sorted(rule.phases))}.\n")
    if rule.reads != "both":
        lines = {"package": "Only", "others": "Not"}[rule.reads]
        parts.append(f"{lines} in the output of a package's own command.\n")
    if rule.at_least > 1:
        parts.append(f"At least {rule.at_least} lines must match.\n")
    if rule.unless:
        parts.append(f"Not in a text with a line that matches `{rule.unless}`.\n")
    parts.append(f"Example:\n\n{_quote(rule.examples[0])}")
    parts += [
        f"Not when ({counter.verdict}):\n\n{_quote(counter.text)}" for counter in rule.not_when
    ]
    return "\n".join(parts)


def _quote(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.split("\n"))
