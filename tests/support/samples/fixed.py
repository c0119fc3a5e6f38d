"""Jobs that pass with a change and fail without it."""

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, FailedWithout, Passed
from tests.support.samples.known_failures import seen


def failed_without(line: str = "Error: it never worked", *, package: str = "r.1") -> FailedWithout:
    """An attempt that failed without the change."""
    job = Job(platform="debian-13-ocaml-5.3/amd64", package=package, kind=JobKind.BASE_BUILD)
    return FailedWithout(**{**seen(round_=2).model_dump(), "job": job}, line=line)


def fixed(line: str = "Error: it never worked") -> Passed:
    """The verdict of a job that is known to fail in that way."""
    return Passed(evidence=Evidence(rule="installed", fixes=failed_without(line)))
