"""Which lines of a failure tell how it failed, and which only that it did."""

import re
from collections.abc import Sequence

from opam_ci.core.classify.lines import Line
from opam_ci.core.classify.rule import RuleClass
from opam_ci.core.classify.rulebook import RULES

_WEAK = (*RULES.of(RuleClass.REPORT, RuleClass.STATUS), RULES.by_id["make-failed"])
_TESTS = RULES.of(RuleClass.TEST)

WEAK_IDS = frozenset(rule.id for rule in _WEAK)
"""Ids of the rules whose words say that something failed, and not how."""

_OPAM_SAYS = re.compile(
    r"^\W*(?:no changes have been performed|the following (?:actions|have been)|'opam "
    r"|make(?:\[\d+\])?: (?:entering|leaving) directory"
    r"|the former state can be restored|run-time error|(?:re)?install |build |the packages )",
    re.IGNORECASE,
)
"""The end of opam's every report: what is shown where no rule found a line."""


_REPORT_HEAD = re.compile(r"^#=== ERROR while ")

_FIELD = re.compile(r"^(?:context|path|command|exit-code|(?:env|output|stdout|stderr)-file) ")
"""The header of opam's report."""


def says_little(text: str) -> bool:
    """Whether a line is what opam, make or a test framework says of any failure."""
    if not text or _OPAM_SAYS.match(text) or _FIELD.match(text):
        return True
    return any(rule.compiled.search(text) for rule in (*_WEAK, *_TESTS))


def telling(texts: Sequence[str], detail: str | None = None) -> str:
    """Returns the first line, unless it only says that something failed and a later one how.

    Args:
        texts: The lines, at least one.
        detail: What else is known; it says more than the head of opam's report.
    """
    first = texts[0]
    if first.endswith(":") and len(texts) > 1:
        return f"{first} {texts[1]}"
    is_weak = any(rule.compiled.search(first) for rule in _WEAK)
    if not (is_weak or _REPORT_HEAD.match(first)):
        return first
    if is_weak or detail is None:
        detail = first
    return next((text for text in texts[1:] if not says_little(text)), detail)


def last_words(lines: Sequence[Line]) -> Line | None:
    """Returns the last line by which a package's own command says how it failed, if one does."""
    spoken = (line for line in reversed(lines) if line.of_package)
    return next((line for line in spoken if not says_little(line.text)), None)
