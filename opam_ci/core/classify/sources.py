"""Failed downloads: the submission's own source, a dependency's, or the network in between."""

import re
from collections.abc import Sequence

from opam_ci.core.classify.lines import Line
from opam_ci.core.classify.matching import TextVerdict
from opam_ci.core.classify.preparation import judge_opam_exit
from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.classify.verdicts import Case
from opam_ci.core.jobs.facts import PhaseRun
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason, Outcome

CHECKSUM_REPEATS = "checksum_repeats"
"""Name of the probe that fetches a source with a wrong checksum again: True if it had the same
wrong checksum, so that its host serves it consistently."""

NETWORK_WORKS = "mirror"
"""Name of the probe that, after a failed download, asks a host of the CI's own choice."""

DNS_WORKS = "dns"
"""Name of the probe for whether that host's name resolved."""

SOURCES_FIXED = "sources_fixed"
"""Name of the probe that, after a download in a phase without network, reads the opam files of the
packages concerned: False if a source of theirs has no checksum, so that opam could not cache it."""

_NAMES = re.compile(
    r"(?:ERROR while fetching sources for |Failed to get (?:sources|extra source \"[^\"]*\") of )"
    r"(?P<names>[^\s:(]+(?:, [^\s:(]+)*)"
)
_SOURCE_REASONS = {FailureReason.SOURCE, FailureReason.CHECKSUM}

_HOST_REFUSED = re.compile(r"(?P<url>\S+) \([Cc]url(?: failed: |: code (?:429|5\d\d) )")


def refused_url(why: str) -> str | None:
    """Return the URL whose host did not serve a download, None if the source itself is at fault.

    Args:
        why: What opam reports of the download, which may be cut off at its end.
    """
    found = _HOST_REFUSED.match(why)
    return found["url"] if found else None


def judge_fetch(case: Case, run: PhaseRun) -> Outcome:
    """Judge a phase in which sources could not be fetched.

    A fault of the network outweighs a missing source: the first may be the reason for the
    second, which a retry shows.
    """
    if run.refused:
        detail = (
            f"a source's host is at {', '.join(run.refused)}, which builds do not reach: it may be "
            "the author's mistake, or a mirror that OPAM_CI_NETWORK_ALLOW has to name"
        )
        return case.errored(Cause.SOURCE_HOST, "internal-address", run, detail=detail)
    # `opam source P` names no package: it fetches one, the job's own.
    names = _failed_packages(case, run) or [case.own]
    lines = case.lines(run.phase)
    verdicts = {name: _verdict_on(name, names, lines) for name in names}
    for verdict in (*verdicts.values(), RULES.first_match(lines, Phase.FETCH)):
        if verdict and verdict.outcome == "errored":
            return _with_probes(case, run, verdict)
    if fault := case.unreachable():
        cause, detail = fault
        return case.errored(cause, "probe", run, detail=detail)
    # The job's own package first: that is what its author can fix.
    for name in sorted(names, key=lambda name: name != case.own):
        verdict = verdicts[name]
        if verdict and verdict.reason in _SOURCE_REASONS:
            return _judge_source(case, run, name, verdict)
    if undecided := next((v for v in verdicts.values() if v), None):
        return case.of_text(undecided.model_copy(update={"outcome": "unknown"}), run)
    return judge_opam_exit(case, run)


def judge_unfixed_source(case: Case, run: PhaseRun) -> Outcome | None:
    """Return the failure of a source without checksum, which opam downloads again in the build."""
    if case.facts.probes.get(SOURCES_FIXED) is not False:
        return None
    names = _failed_packages(case, run) or [case.own]
    name = case.own if case.own in names else names[0]
    reason = FailureReason.SOURCE if name == case.own else FailureReason.DEPENDENCY
    detail = (
        f"a source of {name} has no checksum, so opam does not cache it for the build, which has "
        "no network: add a checksum"
    )
    return case.failed(reason, "source-without-checksum", run, detail=detail, blame=name)


def _judge_source(case: Case, run: PhaseRun, name: str, verdict: TextVerdict) -> Outcome:
    repeats = case.facts.probes.get(CHECKSUM_REPEATS)
    if verdict.reason is FailureReason.CHECKSUM and repeats is not True:
        detail = "a second download had another checksum: the host serves varying content"
        if repeats is None:
            detail = (
                "a second download failed: it is unknown whether the host or the opam file is wrong"
            )
        return case.errored(
            Cause.SOURCE_HOST, "checksum-varies", run, lines=verdict.lines, detail=detail
        )
    if name == case.own and isinstance(verdict.reason, FailureReason):
        return case.failed(verdict.reason, verdict.rule, run, lines=verdict.lines)
    detail = f"source of {name}, a dependency: {verdict.rationale}"
    return case.failed(
        FailureReason.DEPENDENCY, verdict.rule, run, lines=verdict.lines, detail=detail, blame=name
    )


def _with_probes(case: Case, run: PhaseRun, verdict: TextVerdict) -> Outcome:
    """Determine the cause of a fetch fault with the help of the probes."""
    cause = verdict.cause or Cause.UNKNOWN
    probes, detail = case.facts.probes, None
    if cause is Cause.DNS and probes.get(DNS_WORKS) is True:
        cause, detail = Cause.SOURCE_HOST, "other names resolve, but this host's name does not"
    elif cause is Cause.NETWORK and probes.get(NETWORK_WORKS) is True:
        cause, detail = Cause.SOURCE_HOST, "another host answers, but not this one"
    elif cause is Cause.SOURCE_HOST and probes.get(NETWORK_WORKS) is False:
        cause, detail = Cause.NETWORK, "no host of the CI's own answers either"
    return case.errored(cause, verdict.rule, run, lines=verdict.lines, detail=detail)


def _failed_packages(case: Case, run: PhaseRun) -> list[str]:
    """Return the packages whose fetch failed: by opam's report, else by its messages."""
    reported = [
        action.package
        for action in run.actions
        if action.action == "fetch" and action.result == "failed"
    ]
    if reported:
        return list(dict.fromkeys(reported))
    return list(dict.fromkeys(name for line in case.lines(run.phase) for name in _named(line)))


def _named(line: Line) -> list[str]:
    found = _NAMES.search(line.text)
    return found.group("names").split(", ") if found else []


def _verdict_on(name: str, names: Sequence[str], lines: Sequence[Line]) -> TextVerdict | None:
    """Return the verdict on the lines about one package; all lines are, if it is the only one."""
    if len(names) == 1:
        return RULES.first_match(lines, Phase.FETCH)
    about: list[Line] = []
    current: list[str] = []
    for line in lines:
        if named := _named(line):
            current = named
        if name in current:
            about.append(line)
    return RULES.first_match(about, Phase.FETCH)
