"""All of our requests and the fake's responses, validated by GitHub's own description."""

from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.core.github.checks import (
    BUTTON_ERRORS,
    BUTTON_FAILED,
    Annotation,
    CheckOutput,
    CheckRun,
)
from opam_ci.core.github.status import Status
from opam_ci.core.jobs.summary import State
from tests.support.fakes.github import FakeGitHub
from tests.support.fakes.github_api import api
from tests.support.fakes.github_wire import Description, Wire, connect

HEAD = "1" * 40


@pytest.fixture(scope="module")
def description(shared: Path) -> Description:
    file = shared / "github" / "api.github.com-trimmed.json"
    if not file.is_file():
        pytest.skip("GitHub's description is not in the folder of real data")
    return Description(file)


async def every_call(fake: FakeGitHub, github: GitHub) -> None:
    for number in range(1, 4):
        await fake.open(number, f"{number}" * 40)
    fake.page_size = 2
    for state in State:
        words = "x" * 140 if state is State.SUCCESS else ""
        await github.create_status(
            Status(
                context="opam-ci",
                sha=HEAD,
                state=state,
                description=words,
                target_url="https://ci.example.org/pr/1",
            )
        )
    await github.create_status(
        Status(context="opam-ci / lint", sha=HEAD, state=State.PENDING, description="0/1 done")
    )
    assert len(await github.open_pull_requests("master")) == 3
    assert len(await github.open_pull_requests("master")) == 3
    await github.pull_request(1)
    run = CheckRun(
        name="opam-ci",
        head_sha=HEAD,
        external_id="pr/ocaml/opam-repository/1",
        status="in_progress",
        started_at=fake.now,
    )
    await github.put_check_run(run)
    done = CheckRun(
        name="opam-ci",
        head_sha=HEAD,
        external_id="pr/ocaml/opam-repository/1",
        conclusion="failure",
        completed_at=fake.now,
        details_url="https://ci.example.org/pr/1",
        output=CheckOutput(
            title="60 findings",
            summary="| a |",
            annotations=tuple(
                Annotation(
                    path="packages/a/a.1/opam",
                    start_line=line,
                    end_line=line,
                    annotation_level="warning",
                    message="m",
                    title="t",
                )
                for line in range(1, 61)
            ),
        ),
        actions=(BUTTON_ERRORS, BUTTON_FAILED),
    )
    await github.put_check_run(done)
    await github.may_command("bob")
    await github.comment(1, "words")
    failed = await github.deliveries(fake.now - timedelta(days=1))
    await github.redeliver(failed[-1].id)
    await github.app()


async def test_nothing_is_against_the_description(description: Description) -> None:
    fake = FakeGitHub(commits={HEAD})
    wire = Wire(fake, description)
    async with connect(fake, wire) as github:
        await every_call(fake, github)
    assert wire.violations == []
    used = {(method, path) for method, path, code in fake.requests if code < 300}
    routes = [route for route in api(fake).routes if isinstance(route, Route)]
    unused = [
        route.path
        for route in routes
        if not any(
            verb in (route.methods or ()) and route.path_regex.fullmatch(path)
            for verb, path in used
        )
    ]
    assert len(routes) > 10
    assert unused == []
    assert any(code == 304 for _, _, code in fake.requests)


async def test_refusals_are_shaped_as_described(description: Description) -> None:
    fake = FakeGitHub()
    wire = Wire(fake, description)
    async with connect(fake, wire) as github:
        for call in (github.pull_request(1), github.comment(1, "words")):
            with pytest.raises(GitHubRefusedError):
                await call
    assert wire.violations == []


async def test_the_judge_sees_what_is_wrong(description: Description) -> None:
    request = httpx.Request(
        "POST",
        f"https://api.github.com/repos/o/r/statuses/{HEAD}",
        json={"state": "great"},
    )
    answer = httpx.Response(201, json={"id": 1})
    found = list(description.violations(request, answer))
    assert len(found) == 2
    assert found[0].startswith("request POST")
    assert found[1].startswith("response 201")


async def test_one_character_more_is_refused_by_the_fake_alone() -> None:
    # GitHub's description does not know of the limit.
    fake = FakeGitHub(commits={HEAD})
    wanted = Status(context="c", sha=HEAD, state=State.PENDING, description="")
    async with connect(fake) as github:
        with pytest.raises(GitHubRefusedError, match="too long"):
            await github.create_status(wanted.model_copy(update={"description": "x" * 141}))
