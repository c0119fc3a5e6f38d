"""Specific lines of a failure, which show how it failed, and generic ones, which only show that."""

import re
from collections.abc import Sequence

from opam_ci.core.classify.lines import Line
from opam_ci.core.classify.rule import RuleClass
from opam_ci.core.classify.rulebook import RULES

_WEAK = (*RULES.of(RuleClass.REPORT, RuleClass.STATUS), RULES.by_id["make-failed"])
_TESTS = RULES.of(RuleClass.TEST)

WEAK_IDS = frozenset(rule.id for rule in _WEAK)
"""Ids of the rules for messages that something failed, but not how."""

_OPAM_SUMMARY = re.compile(
    r"^\W*(?:no changes have been performed|the following (?:actions|have been)|'opam "
    r"|make(?:\[\d+\])?: (?:entering|leaving) directory"
    r"|the former state can be restored|run-time error|(?:re)?install |build |the packages )",
    re.IGNORECASE,
)
"""Lines at the end of all reports of opam."""


_REPORT_HEAD = re.compile(r"^#=== ERROR while ")

_FIELD = re.compile(r"^(?:context|path|command|exit-code|(?:env|output|stdout|stderr)-file) ")
"""The header of opam's report."""


def is_generic(text: str) -> bool:
    """Whether a line is generic: opam, make or a test framework prints it for any failure."""
    if not text or _OPAM_SUMMARY.match(text) or _FIELD.match(text):
        return True
    return any(rule.compiled.search(text) for rule in (*_WEAK, *_TESTS))


def salient_line(texts: Sequence[str], detail: str | None = None) -> str:
    """Return the first line, unless it is generic and a later one is specific.

    Args:
        texts: The lines, at least one.
        detail: The detail of the evidence, which is more specific than the head of opam's report.
    """
    first = texts[0]
    if first.endswith(":") and len(texts) > 1:
        return f"{first} {texts[1]}"
    is_weak = any(rule.compiled.search(first) for rule in _WEAK)
    if not (is_weak or _REPORT_HEAD.match(first)):
        return first
    if is_weak or detail is None:
        detail = first
    return next((text for text in texts[1:] if not is_generic(text)), detail)


def last_specific_line(lines: Sequence[Line]) -> Line | None:
    """Return the last specific line of the output of a package's own command, if there is one."""
    printed = (line for line in reversed(lines) if line.of_package)
    return next((line for line in printed if not is_generic(line.text)), None)
