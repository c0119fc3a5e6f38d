"""The input of a build activity: complete, and short, for there is one for every job."""

from datetime import UTC, datetime, timedelta

import pytest

from opam_ci.core.jobs.build import BuildSpec, PhaseTimeouts, RepositoryRef
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import JobContext, RunJob
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.platforms.model import EMBEDDED, Platform
from tests.support.samples.known_verdicts import known_verdict

USUAL = RunJob(
    context=JobContext(
        pull_request=PullRequestRef(owner="ocaml", repo="opam-repository", number=30203),
        head="1" * 40,
        opened_at=datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC),
        round=1,
        retry=RetrySettings(),
    ),
    spec=BuildSpec(
        job=Job(platform=EMBEDDED.name, package="dune.3.20.0", kind=JobKind.BUILD),
        platform=EMBEDDED,
        repository=RepositoryRef(
            base_commit="b" * 40,
            base_archive=f"base/{'b' * 40}.tar.zst",
            overlay_archive=f"overlay/{'c' * 40}.tar.zst",
            overlay_packages=1,
            package_count=40_000,
        ),
    ),
)
OTHER = USUAL.model_copy(
    update={
        "context": USUAL.context.model_copy(
            update={
                "round": 2,
                "notify": False,
                "retry": RetrySettings(initial_interval=timedelta(seconds=1), jitter=0),
            }
        ),
        "spec": USUAL.spec.model_copy(
            update={
                "platform": Platform.model_validate(EMBEDDED.model_dump() | {"variant": "flambda"}),
                "timeouts": PhaseTimeouts(test=timedelta(minutes=3)),
                "archive_mirrors": ("file:///mirror",),
                "only_mirrored": True,
                "build_cache": False,
                "submitted": ("dune.3.20.0",),
                "builds_known_failures": True,
                "known_verdicts": {
                    "a" * 32: known_verdict(),
                    "b" * 32: known_verdict(Passed(evidence=Evidence(rule="installed"))),
                },
            }
        ),
    }
)


@pytest.mark.parametrize("given", [USUAL, OTHER], ids=["usual", "nothing at its default"])
def test_it_comes_back_as_it_was(given: RunJob) -> None:
    assert RunJob.model_validate_json(given.model_dump_json()) == given


def test_a_usual_one_is_short() -> None:
    assert len(USUAL.model_dump_json()) < 700
