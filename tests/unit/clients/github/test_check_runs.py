"""Check runs at GitHub: made once, annotated once, whatever breaks in between."""

import pytest

from opam_ci.clients.github.posting import Writer
from opam_ci.core.github.checks import Annotation, CheckOutput, CheckRun, Conclusion
from opam_ci.core.github.status import Channel, Status
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.summary import State
from tests.support.fakes.github import FakeGitHub, InjectedFault
from tests.support.fakes.github_wire import connect

HEAD = "1" * 40


def annotations(count: int) -> tuple[Annotation, ...]:
    return tuple(
        Annotation(
            path="packages/a/a.1/opam",
            start_line=line,
            end_line=line,
            annotation_level="failure",
            message=f"finding {line}",
        )
        for line in range(1, count + 1)
    )


def run(conclusion: Conclusion | None, *, found: int = 0) -> CheckRun:
    return CheckRun(
        name="lint",
        head_sha=HEAD,
        external_id="pr/ocaml/opam-repository/1",
        status=None if conclusion else "in_progress",
        conclusion=conclusion,
        output=CheckOutput(title="t", summary="s", annotations=annotations(found)),
    )


async def test_annotations_are_given_once_although_a_request_broke() -> None:
    fake = FakeGitHub(commits={HEAD})
    async with connect(fake) as github:
        await github.put_check_run(run(None))
        # The second portion of three never arrives.
        fake.troubles = [
            InjectedFault("/check-runs/", 502, done=True),
            InjectedFault("/check-runs/", 502),
        ]
        for _ in range(2):
            with pytest.raises(InfrastructureError):
                await github.put_check_run(run("failure", found=120))
        await github.put_check_run(run("failure", found=120))
        await github.put_check_run(run("failure", found=120))
    (only,) = fake.runs.values()
    assert [each["start_line"] for each in only.annotations] == list(range(1, 121))
    assert only.wanted["conclusion"] == "failure"


async def test_concluded_run_is_not_opened_again() -> None:
    fake = FakeGitHub(commits={HEAD})
    async with connect(fake) as github:
        await github.put_check_run(run("failure"))
        await github.put_check_run(run(None))
        await github.put_check_run(run("success"))
    assert [each.wanted.get("conclusion") for each in fake.runs.values()] == ["failure", "success"]


async def test_writer_annotates_the_linters_run_once_it_is_concluded() -> None:
    fake = FakeGitHub(commits={HEAD})
    asked = 0

    async def find() -> tuple[Annotation, ...]:
        nonlocal asked
        asked += 1
        return annotations(3)

    async with connect(fake) as github:
        for conclusion in (None, "failure"):
            writer = Writer(
                github,
                {"check": run("failure" if conclusion else None)},
                annotated="check",
                annotations=find,
            )
            status = Status(context="check", sha=HEAD, state=State.PENDING, description="x")
            await writer.send(status)
            await writer.send(status.model_copy(update={"channel": Channel.CHECK_RUN}))
            assert asked == (1 if conclusion else 0)
    (only,) = fake.runs.values()
    assert len(only.annotations) == 3
    assert len(fake.statuses[HEAD, "check"]) == 2
