"""Dependencies that failed, as attempts saw them."""

from datetime import UTC, datetime

from opam_ci.core.classify.packages import DEPENDENCY_FAILED
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.known_failure import KnownFailure
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, LogLine, SeenIn

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEY = "a" * 64


def seen(package: str = "foo.1", *, round_: int = 1, at: datetime = NOON) -> SeenIn:
    """An attempt of a job that built it."""
    return SeenIn(
        repository="ocaml/opam-repository",
        number=7,
        branch=None,
        head="c" * 40,
        opened_at=NOON,
        round=round_,
        attempt=1,
        ended_at=at,
        job=Job(platform="debian-13-ocaml-5.3/amd64", package=package, kind=JobKind.BUILD),
    )


def failed(line: str = "# Error: it is broken") -> Failed:
    """The verdict of such a job."""
    evidence = Evidence(
        rule=DEPENDENCY_FAILED,
        phase=Phase.DEPENDENCIES,
        lines=(LogLine(offset=100, text=line),),
        worker="w",
        attempt=1,
    )
    return Failed(reason=FailureReason.DEPENDENCY, evidence=evidence, blame="bar.2")


def known_failure(*attempts: SeenIn, beside: tuple[str, ...] = ()) -> KnownFailure:
    """What is known of it, by two attempts unless others are given."""
    known = attempts or (seen("foo.1"), seen("other.1"))
    return KnownFailure(key=KEY, package="bar.2", outcome=failed(), seen=known, beside=beside)
