"""The line that identifies a failure that no rule matches."""

import pytest

from opam_ci.core.classify import judge
from opam_ci.core.classify.lines import clean
from opam_ci.core.classify.salience import is_generic, last_specific_line, salient_line
from opam_ci.core.incidents.fingerprint import signature
from opam_ci.core.jobs.build import BuildSpec, RepositoryRef
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import label
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.fakes.runners import facts

REPORT = """#=== ERROR while compiling {package} ==================================#
# context     2.3.0 | linux/x86_64 | ocaml.5.3.0 | pinned
# path        ~/.opam/5.3/.opam-switch/build/{package}
# command     ~/.opam/opam-init/hooks/sandbox.sh build make install
# exit-code   2
# env-file    ~/.opam/log/{package}-77-ab12cd.env
# output-file ~/.opam/log/{package}-77-ab12cd.out
### output ###
# copying {package}
# {message}
# make: *** [Makefile:{number}: install] Error 1


<><> Error report <><><><><><><><><><><><><><><><><><><><><><><><><><>
+- The following actions failed
| - build {package}
+-
- No changes have been performed
"""
MESSAGE = "install: the frobnicator is exhausted"


def job(package: str) -> Job:
    return Job(platform=EMBEDDED.name, package=package, kind=JobKind.BUILD)


def log(package: str, message: str = MESSAGE) -> str:
    return REPORT.format(package=package, message=message, number=len(package))


def spec(package: str) -> BuildSpec:
    repository = RepositoryRef(
        base_commit="b" * 40, base_archive="b", overlay_archive="o", overlay_packages=1,
        package_count=1,
    )  # fmt: skip
    return BuildSpec(job=job(package), platform=EMBEDDED, repository=repository)


def test_a_line_that_no_rule_matches_is_evidence_and_a_signature() -> None:
    signatures = set()
    for package in ("asked.1", "another.2.0"):
        outcome = judge(facts(spec(package), fails=True), {Phase.BUILD: log(package)})
        assert label(outcome) == "failed(build)"
        assert outcome.kind == "failed"
        assert outcome.evidence.rule == "package-report"
        # The reason that people read stays opam's.
        assert "ERROR while compiling" in outcome.evidence.lines[0].text
        assert MESSAGE in outcome.evidence.lines[-1].text
        signatures.add(signature(outcome, job(package)))
    [found] = signatures
    assert found is not None
    assert found.line == MESSAGE.lower()


def test_a_line_about_the_package_is_not_a_signature() -> None:
    text = log("asked.1", message="asked is broken in a way of its own")
    outcome = judge(facts(spec("asked.1"), fails=True), {Phase.BUILD: text})
    assert outcome.kind == "failed"
    assert "way of its own" in outcome.evidence.lines[-1].text
    assert signature(outcome, job("asked.1")) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (log("a.1"), MESSAGE),
        (log("a.1", message="make: *** [Makefile:9: x] Error 7"), "copying a.1"),
        ("no report at all\n", None),
        (log("a.1").partition("# copying")[0], None),
    ],
)
def test_the_last_specific_line_is_the_packages(text: str, message: str | None) -> None:
    found = last_specific_line(clean(text))
    assert (found.text if found is not None else None) == message


def test_generic_lines() -> None:
    assert is_generic("")
    assert is_generic("- No changes have been performed")
    assert not is_generic(MESSAGE)


def test_the_one_line_is_the_specific_one() -> None:
    weak = '[ERROR] The compilation of num.1.6 failed at "make test".'
    assert salient_line([weak, "make: *** [all] Error 2", ">>> Bad result (sub, test 2)"]) == (
        ">>> Bad result (sub, test 2)"
    )
    assert salient_line([weak, "make: *** [all] Error 2"]) == weak
    report = "#=== ERROR while compiling num.1.6 ======#"
    assert salient_line([report, ">>> Bad result (sub, test 2)"]) == ">>> Bad result (sub, test 2)"
    assert salient_line(["These patches didn't apply at /x:", "- a.patch: exited with code 1"]) == (
        "These patches didn't apply at /x: - a.patch: exited with code 1"
    )
    left = "make[1]: Leaving directory '/home/opam/num.1.6/test'"
    assert salient_line([report, left]) == report
    assert salient_line([report, left], "build of num.1.6 failed: make x") == (
        "build of num.1.6 failed: make x"
    )
    assert salient_line(["Error: Unbound value x", "copying a"]) == "Error: Unbound value x"
