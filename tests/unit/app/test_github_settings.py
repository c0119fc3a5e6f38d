"""The settings of the GitHub side, and what is made of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from opam_ci.app.github_service import transport_for
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.clients.github.http import TOTAL_TIMEOUT
from opam_ci.core.errors import UsageError
from opam_ci.core.github.action import HeadChanged, Tracked
from opam_ci.core.github.ordering import LatestEvent, compare_events
from opam_ci.core.github.revision import Policy
from opam_ci.core.jobs.hold import Author
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.text.status import problems
from tests.support.fakes.github import private_pem
from tests.support.fakes.serving import served

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OPAM_CI_GITHUB_REPOSITORY", "ocaml/opam-repository")
    return monkeypatch


def head(*, draft: bool = False, why: str = "opened") -> HeadChanged:
    return HeadChanged.model_validate(
        {
            "pull_request": Tracked(repository="ocaml/opam-repository").ref(7),
            "head": "1" * 40,
            "base": "b" * 40,
            "draft": draft,
            "why": why,
            "as_of": AT,
        }
    )


def test_error_of_a_missing_setting_has_its_variable(tmp_path: Path) -> None:
    bare = GitHubSettings()
    for call, variable in (
        (lambda: bare.tracked, "OPAM_CI_GITHUB_REPOSITORY"),
        (bare.credentials, "OPAM_CI_GITHUB_APP_ID"),
        (bare.webhook_secret, "OPAM_CI_GITHUB_WEBHOOK_SECRET_FILE"),
    ):
        with pytest.raises(UsageError, match=variable):
            call()
    with pytest.raises(UsageError, match="OPAM_CI_GITHUB_PRIVATE_KEY_FILE"):
        GitHubSettings(app_id=1).credentials()
    with pytest.raises(UsageError, match="cannot read /nowhere"):
        GitHubSettings(app_id=1, private_key_file=Path("/nowhere")).credentials()
    (tmp_path / "empty").write_bytes(b"\n")
    with pytest.raises(UsageError, match="is empty"):
        GitHubSettings(webhook_secret_file=tmp_path / "empty").webhook_secret()


def test_secrets_are_never_shown(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("OPAM_CI_GITHUB_TOKEN", "ghp_very_secret")
    found = GitHubSettings()
    assert "very_secret" not in repr(found) + str(found) + found.model_dump_json()
    assert "very_secret" not in repr(found.credentials())
    (tmp_path / "key.pem").write_bytes(private_pem())
    app = GitHubSettings(app_id=4, private_key_file=tmp_path / "key.pem").credentials()
    assert repr(app) == "AppCredentials(app_id=4)"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("REPOSITORY", "no-owner", "repository"),
        ("API_URL", "ftp://x", "https://"),
        ("PAGE_URL", "https://ci:secret@x/", "which would be shown"),
        ("CONTEXTS", "[]", "contexts"),
        (
            "CONTEXTS",
            '[{"about":"overall","name":"a"},{"about":"linter","name":"a"}]',
            "the same name",
        ),
    ],
)
def test_wrong_settings_are_refused(
    env: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    env.setenv(f"OPAM_CI_GITHUB_{variable}", value)
    with pytest.raises(ValidationError, match=words) as caught:
        GitHubSettings()
    assert "secret" not in problems(caught.value)


@pytest.mark.parametrize(
    "url", ["https://x-access-token:secret@h/r", "https://secret@h/r", "ssh://git:secret@h/r"]
)
def test_a_clone_url_with_a_password_is_refused_and_not_shown(
    env: pytest.MonkeyPatch, url: str
) -> None:
    env.setenv("OPAM_CI_GITHUB_CLONE_URL", url)
    with pytest.raises(UsageError, match="without a password") as caught:
        GitHubSettings().policy(CheckOptions())
    assert "secret" not in str(caught.value)
    env.setenv("OPAM_CI_GITHUB_CLONE_URL", "ssh://git@h/r")
    assert GitHubSettings().policy(CheckOptions()).clone_url == "ssh://git@h/r"


def test_check_runs_need_an_app(env: pytest.MonkeyPatch) -> None:
    env.setenv("OPAM_CI_GITHUB_CHECKS", "true")
    with pytest.raises(UsageError, match="only Apps have check runs"):
        GitHubSettings().policy(CheckOptions())


def test_links_contexts_and_clone_url(env: pytest.MonkeyPatch) -> None:
    env.setenv("OPAM_CI_GITHUB_TEMPORAL_UI", "http://ui:8233/")
    env.setenv("OPAM_CI_GITHUB_ADVISORY", '["revdeps"]')
    policy = GitHubSettings().policy(CheckOptions(), namespace="ci")
    origin, posting = policy.revision(head()).origin, policy.posting_for(head().pull_request)
    assert origin is not None
    assert posting is not None
    assert origin.clone_url == "https://github.com/ocaml/opam-repository.git"
    url = "http://ui:8233/namespaces/ci/workflows/pr%2Focaml%2Fopam-repository%2F7"
    assert posting.target_url == url
    assert [context.advisory for context in posting.contexts] == [False, False, True]
    env.setenv("OPAM_CI_GITHUB_PAGE_URL", "https://ci.example.org/{owner}/{repo}/{number}")
    posting = GitHubSettings().policy(CheckOptions()).posting_for(head().pull_request)
    assert posting is not None
    assert posting.target_url == "https://ci.example.org/ocaml/opam-repository/7"


def test_a_lost_worker_is_replaced_only_after_its_longest_request(env: pytest.MonkeyPatch) -> None:
    posting = GitHubSettings().policy(CheckOptions()).posting
    assert posting is not None
    assert posting.heartbeat_timeout > TOTAL_TIMEOUT
    env.setenv("OPAM_CI_GITHUB_REQUEST_TIMEOUT", "PT5S")
    posting = GitHubSettings().policy(CheckOptions()).posting
    assert posting is not None
    assert timedelta(seconds=5) < posting.heartbeat_timeout < timedelta(seconds=15)


def test_drafts_are_tested_lightly_and_ready_ones_anew(env: pytest.MonkeyPatch) -> None:
    platforms = tuple(
        EMBEDDED.model_copy(update={"ocaml": version, "lower_bounds": True, "revdeps": True})
        for version in ("5.3", "4.14")
    )
    checks = CheckOptions(platforms=platforms)
    policy = GitHubSettings().policy(checks)
    draft, ready = policy.revision(head(draft=True)), policy.revision(head(why="ready"))
    assert [platform.name for platform in draft.options.platforms] == [platforms[0].name]
    assert not draft.options.platforms[0].revdeps
    assert not draft.options.platforms[0].lower_bounds
    assert ready.options == checks
    assert ready.is_more_than(draft)
    assert not draft.is_more_than(ready)
    assert not ready.is_more_than(ready)
    assert policy.revision(head(why="rebased")).is_more_than(ready)
    env.setenv("OPAM_CI_GITHUB_DRAFTS", "full")
    assert GitHubSettings().policy(checks).revision(head(draft=True)).options == checks


def test_open_pull_requests_follow_the_base_unless_that_is_switched_off(
    env: pytest.MonkeyPatch,
) -> None:
    policy = GitHubSettings().policy(CheckOptions())
    assert (policy.follow_interval, policy.retest_interval) == (
        timedelta(minutes=5),
        timedelta(days=1),
    )
    env.setenv("OPAM_CI_GITHUB_FOLLOW_INTERVAL", "PT0S")
    env.setenv("OPAM_CI_GITHUB_RETEST_INTERVAL", "PT0S")
    policy = GitHubSettings().policy(CheckOptions())
    # Each time that dependencies change, if anything is followed at all.
    assert (policy.follow_interval, policy.retest_interval) == (None, timedelta(0))
    env.setenv("OPAM_CI_GITHUB_FOLLOW_INTERVAL", "P2D")
    with pytest.raises(ValidationError):
        GitHubSettings()


def author_of(policy: Policy, association: str = "", author: str | None = "alice") -> Author:
    action = head().model_copy(update={"author": author, "association": association})
    found = policy.revision(action).author
    assert found is not None
    return found


def test_authors_have_no_limit_but_of_restarts_unless_configured(env: pytest.MonkeyPatch) -> None:
    policy = GitHubSettings().policy(CheckOptions())
    assert author_of(policy) == Author(login="alice", restarts_an_hour=10)
    env.setenv("OPAM_CI_GITHUB_AUTHOR_RESTARTS", "0")
    env.setenv("OPAM_CI_GITHUB_AUTHOR_HOURS", "2.5")
    policy = GitHubSettings().policy(CheckOptions())
    assert author_of(policy) == Author(login="alice", hours_a_day=2.5)


@pytest.mark.parametrize(
    ("association", "is_new"),
    [
        *[(known, False) for known in ("OWNER", "MEMBER", "COLLABORATOR", "CONTRIBUTOR")],
        *[(new, True) for new in ("FIRST_TIMER", "FIRST_TIME_CONTRIBUTOR", "NONE", "MANNEQUIN")],
        ("", True),
    ],
)
def test_new_authors_are_those_that_github_does_not_know(
    env: pytest.MonkeyPatch, association: str, is_new: bool
) -> None:
    assert not author_of(GitHubSettings().policy(CheckOptions()), association).is_new
    env.setenv("OPAM_CI_GITHUB_NEW_AUTHORS", "small")
    policy = GitHubSettings().policy(CheckOptions())
    assert author_of(policy, association).is_new is is_new
    assert author_of(policy, association, None).login == "ghost"


@pytest.mark.parametrize(
    ("seconds", "said", "sure", "how"),
    [
        (1, "2" * 40, False, "newer"),
        (-1, "2" * 40, False, "older"),
        (-1, "2" * 40, True, "older"),
        (0, "2" * 40, False, "unclear"),
        (0, "2" * 40, True, "newer"),
        (0, "1" * 40, False, "newer"),
        (0, None, False, "unclear"),
        (1, None, False, "newer"),
    ],
)
def test_order_of_events(seconds: int, said: str | None, sure: bool, how: str) -> None:
    known = LatestEvent(as_of=AT, head="1" * 40)
    assert compare_events(known, AT + timedelta(seconds=seconds), said, authoritative=sure) == how
    assert compare_events(None, AT, said, authoritative=sure) == "newer"


async def test_requests_go_by_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def proxy(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"by the proxy"})

    address = "http://api.github.invalid"
    with served(proxy) as url:
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
        async with httpx.AsyncClient(transport=transport_for(address)) as http:
            assert (await http.get(f"{address}/app")).text == "by the proxy"
        monkeypatch.setenv("no_proxy", "github.invalid")
        async with httpx.AsyncClient(transport=transport_for(address)) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(f"{address}/app")


def test_checks_of_the_base_are_builds(env: pytest.MonkeyPatch) -> None:
    env.setenv("OPAM_CI_GITHUB_HEALTH_PACKAGES", "200")
    policy = GitHubSettings().policy(CheckOptions(platforms=(EMBEDDED,)))
    revision = policy.base_revision("1" * 40, AT)
    assert (revision.head, revision.base, revision.author) == ("1" * 40, "1" * 40, None)
    assert revision.options.popular == 200
    assert not revision.options.keep_open
    assert not any(each.revdeps or each.lower_bounds for each in revision.options.platforms)
    # Of what is asked for by mistake, nothing is done silently.
    with pytest.raises(UsageError, match="leave out one of them"):
        GitHubSettings().policy(CheckOptions(lint_only=True))
    env.setenv("OPAM_CI_GITHUB_HEALTH_PACKAGES", "10001")
    with pytest.raises(ValidationError):
        GitHubSettings()
