"""Every text rule by its own examples, and the rules as a whole."""

import re
from pathlib import Path

import pytest

from opam_ci.core.classify import RULES, Rule, classify_text
from opam_ci.core.classify.rules import BY_ID
from opam_ci.core.classify.table import rules_markdown

COUNTERS = [(rule, counter) for rule in RULES for counter in rule.counter_examples]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_decides_its_own_example(rule: Rule) -> None:
    verdict = classify_text(rule.example, exit_code=None, phase=None)

    assert verdict.rule == rule.id
    assert (verdict.outcome, verdict.reason, verdict.cause) == (
        rule.verdict,
        rule.reason,
        rule.cause,
    )
    assert verdict.lines


@pytest.mark.parametrize(
    ("rule", "counter"), COUNTERS, ids=[f"{r.id}-{i}" for i, (r, _) in enumerate(COUNTERS)]
)
def test_a_rule_leaves_its_counter_examples_alone(rule: Rule, counter: object) -> None:
    text, expected = counter.text, counter.verdict  # type: ignore[attr-defined] # parametrised

    verdict = classify_text(text, exit_code=None, phase=None)

    assert verdict.rule != rule.id
    assert verdict.outcome == expected


@pytest.mark.parametrize("rule", [r for r in RULES if r.yields_to], ids=lambda rule: rule.id)
def test_a_rule_that_yields_shows_it(rule: Rule) -> None:
    # Without a text in which both match, the counter-rule would be untested data.
    assert set(rule.yields_to) <= BY_ID.keys()
    assert rule.counter_examples


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_keeps_deciding_behind_marks_colours_and_time_stamps(rule: Rule) -> None:
    if rule.quoted or rule.id == "many-sources":
        pytest.skip("its example consists of marks itself")
    for prefix in ("\x1b[31m", "2024-05-08 11:11.04: ", "2024-05-08T11:11:04.1234567Z ", "    "):
        text = "\n".join(f"{prefix}{line}" for line in rule.example.split("\n"))

        assert classify_text(text, exit_code=None, phase=None).rule == rule.id, prefix


def test_ids_are_unique() -> None:
    assert len(BY_ID) == len(RULES)


def test_no_pattern_can_backtrack_without_bound() -> None:
    # A repetition of a repetition is what blows up; lines are capped besides.
    nested = re.compile(r"\((?:\?:)?[^()|]*[+*][^()|]*\)[+*]")

    assert [rule.id for rule in RULES if nested.search(rule.pattern)] == []


def test_the_page_of_rules_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "classification.md"

    assert page.read_text() == rules_markdown(), "run: opam-ci classify --rules > that page"
