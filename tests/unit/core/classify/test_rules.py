"""Every rule by its own examples, in the files of rules."""

import re
from pathlib import Path

import pytest

from opam_ci.core.classify import RULES, Rule, classify_text, every_rule
from opam_ci.core.classify.lines import clean
from opam_ci.core.classify.literals import literals
from opam_ci.core.classify.rule import CounterExample
from opam_ci.core.classify.rulebook import parse_rules
from opam_ci.core.classify.rules_page import rules_markdown
from opam_ci.core.jobs.outcome import FailureReason

COUNTERS = [(rule, counter) for rule in every_rule() for counter in rule.not_when]
FOLDER = Path(__file__).parents[4] / "opam_ci" / "core" / "classify" / "rules"


@pytest.mark.parametrize("rule", every_rule().rules, ids=lambda rule: rule.id)
def test_a_rule_decides_its_own_examples(rule: Rule) -> None:
    for example in rule.examples:
        verdict = classify_text(example, exit_code=None, phase=None)

        assert verdict.rule == rule.id, example
        assert (verdict.outcome, verdict.cause) == (rule.verdict, rule.cause)
        assert verdict.reason in {rule.reason, FailureReason.DEPENDENCY}
        assert verdict.lines


@pytest.mark.parametrize("rule", every_rule().rules, ids=lambda rule: rule.id)
def test_every_pattern_of_a_rule_has_an_example(rule: Rule) -> None:
    lines = [line.text for example in rule.examples for line in clean(example)]
    unused = [
        pattern for pattern in rule.patterns if not any(re.search(pattern, line) for line in lines)
    ]

    assert unused == []


@pytest.mark.parametrize(
    ("rule", "counter"), COUNTERS, ids=[f"{r.id}-{i}" for i, (r, _) in enumerate(COUNTERS)]
)
def test_a_rule_leaves_its_counter_examples_alone(rule: Rule, counter: CounterExample) -> None:
    verdict = classify_text(counter.text, exit_code=None, phase=None)

    assert verdict.rule != rule.id
    assert verdict.outcome == counter.verdict


@pytest.mark.parametrize("rule", every_rule().rules, ids=lambda rule: rule.id)
def test_a_rule_keeps_deciding_behind_marks_colours_and_time_stamps(rule: Rule) -> None:
    if rule.quoted or rule.id == "many-sources":
        pytest.skip("its example consists of marks itself")
    for prefix in ("\x1b[31m", "2024-05-08 11:11.04: ", "2024-05-08T11:11:04.1234567Z ", "    "):
        text = "\n".join(f"{prefix}{line}" for line in rule.examples[0].split("\n"))

        assert classify_text(text, exit_code=None, phase=None).rule == rule.id, prefix


def test_every_file_is_read_and_every_id_is_one_rule() -> None:
    tables = sum(file.read_text().count("[[rules]]") for file in FOLDER.rglob("*.toml"))

    assert len(every_rule().rules) == len(every_rule().by_id) == tables > 100


def test_jobs_of_this_ci_are_not_judged_by_rules_for_others() -> None:
    others = every_rule().by_id.keys() - RULES.by_id.keys()

    assert {"job-cancelled", "virtual-machine", "snapshot-store"} <= others
    assert len(others) == sum(
        file.read_text().count("[[rules]]") for file in (FOLDER / "elsewhere").glob("*.toml")
    )


def test_the_meaning_of_a_rule_is_one_line() -> None:
    assert [rule.id for rule in every_rule() if "\n" in rule.why or "  " in rule.why] == []


def test_no_pattern_can_backtrack_without_bound() -> None:
    # A repetition of a repetition is what blows up; lines are capped besides.
    nested = re.compile(r"\((?:\?:)?[^()|]*[+*][^()|]*\)[+*]")

    assert [rule.id for rule in every_rule() if nested.search(rule.compiled.pattern)] == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("No space", {"no space"}),
        ("^(?:[Nn]o|not) space", {" space"}),
        (r"fork: (?:retry: )?Resource", {"resource"}),
        (r"(?:killed|died) \d+", {"killed", "died"}),
        (r"a+b(?>cd)(?=xyz)", {"cd"}),
        (r"(?i:opam) x", {" x"}),
        (r"\d+|error", set()),
        (r"x{0,3}\s", set()),
    ],
)
def test_every_match_of_a_pattern_contains_a_literal(pattern: str, expected: set[str]) -> None:
    assert literals([pattern]) == expected


RULE = 'id = "a"\nclass = "host"\nwhy = "w"\nexamples = ["e"]\n'


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('verdict = "errored(dns)"\npatterns = []', "patterns"),
        ('verdict = "errored"\npatterns = ["x"]', "in brackets"),
        ('verdict = "errored(rain)"\npatterns = ["x"]', "cause"),
        ('verdict = "passed"\npatterns = ["x"]', "verdict"),
        ('verdict = "broken!"\npatterns = ["x"]', "not a verdict"),
        ('verdict = "unknown"\npatterns = ["x"]\nyields_to = ["b"]', "yields_to"),
    ],
)
def test_a_rule_that_is_not_whole_is_refused(table: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        list(parse_rules(f"[[rules]]\n{RULE}{table}\n"))


def test_the_page_of_rules_is_up_to_date() -> None:
    page = Path(__file__).parents[4] / "docs" / "classification.md"

    assert page.read_text() == rules_markdown(), "run: opam-ci classify --rules > that page"
