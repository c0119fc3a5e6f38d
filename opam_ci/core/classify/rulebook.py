"""The rules, read from files of data.

The files are beside this module, one for each tool. They are part of the code and are read once in
a process, as code is (ADR 0020). Those in `elsewhere/` are about the logs of other CIs and of
systems that this one never runs; only `opam-ci classify` reads them.
"""

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from opam_ci.core.classify.matching import Rulebook
from opam_ci.core.classify.rule import Rule, RuleClass

PACKAGE_REPORT = "package-report"
"""Id of the rule by opam's report of a package's failed command."""

OPAM_COMMAND_FAILED = "opam-command-failed"
"""Id of the rule by the remains of such a report."""


def parse_rules(text: str) -> Iterator[Rule]:
    """Parse a file of rules: tables `rules`, and in `defaults` their common keys.

    Raises:
        ValueError: The text is not TOML, or a rule is incomplete.
    """
    data = tomllib.loads(text)
    for table in data.pop("rules"):
        counters = [
            {"verdict": verdict, "text": counter} for verdict, counter in table.pop("not_when", ())
        ]
        rule = Rule.model_validate({**data.get("defaults", {}), **table, "not_when": counters})
        yield rule.model_copy(update={"why": " ".join(rule.why.split())})


def _read(folder: str) -> Iterator[Rule]:
    found = files("opam_ci.core.classify").joinpath(folder).iterdir()
    for file in sorted(found, key=lambda each: each.name):
        if file.name.endswith(".toml"):
            yield from parse_rules(file.read_text("utf-8"))


RULES = Rulebook(_read("rules"))
"""The rules for this CI's own jobs."""


@cache
def every_rule() -> Rulebook:
    """Return these rules and those about the logs of other CIs."""
    return Rulebook([*RULES.rules, *_read("rules/elsewhere")])


TEST_IDS = frozenset(rule.id for rule in RULES.of(RuleClass.TEST))
"""Ids of the rules about failed tests."""
