"""Configuration of the GitHub part: environment variables `OPAM_CI_GITHUB_…`."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from opam_ci.clients.git.upstream import require_url
from opam_ci.clients.github.auth import AppCredentials, Credentials, TokenCredentials
from opam_ci.clients.github.http import PUBLIC_API, TOTAL_TIMEOUT
from opam_ci.clients.github.oauth import PUBLIC_WEB
from opam_ci.core.errors import UsageError
from opam_ci.core.github.action import Tracked
from opam_ci.core.github.model import RefName, RepositoryName, Word
from opam_ci.core.github.posting_options import SILENCE_AFTER_REQUEST, PostingOptions
from opam_ci.core.github.revision import NewAuthors, Policy, lighter
from opam_ci.core.github.status import DEFAULT_CONTEXTS, About, Context
from opam_ci.core.jobs.requests import MOST_POPULAR, CheckOptions


class GitHubSettings(BaseSettings):
    """The repository on GitHub that this CI serves, and its credentials.

    Secrets are files or hidden.

    Attributes:
        repository: Owner and name, such as `ocaml/opam-repository`.
        branch: The base branch whose pull requests are tested.
        app_id: Id of the GitHub App.
        private_key_file: The App's private key, as downloaded from GitHub.
        token: A plain token, for small set-ups without an App.
        token_file: A file with the token.
        webhook_secret_file: A file with the webhook's secret.
        client_id: Client id of the App, for people to sign in; without it pages have no buttons.
        client_secret_file: A file with a client secret of the App.
        api_url: URL of GitHub's API; another one for GitHub Enterprise.
        web_url: URL of GitHub's pages; another one for GitHub Enterprise.
        clone_url: URL to fetch commits from; by default the repository on github.com.
        checks: Whether check runs are posted besides statuses; needs an App.
        contexts: The statuses to post, as JSON.
        advisory: Which of the contexts are advisory, by what they are about.
        page_url: Link of statuses: a URL with `{owner}`, `{repo}`, `{number}`.
        temporal_ui: Address of Temporal's Web UI, to which pages link for operators, and statuses
            where no pages are served.
        drafts: Whether drafts are tested `light`ly, or like all others (`full`).
        new_authors: Whether for an author of whom nothing was merged before everything is run
            (`full`), or a `small` set until `/opam-ci ok`.
        author_hours: CPU hours that jobs of one author may use in a day (UTC) before
            reverse dependencies wait; 0 for any number.
        author_restarts: Restarts of a pull request that an author without triage rights may make
            in an hour; 0 for any number.
        request_timeout: Timeout of a request to GitHub. A worker that posts and sends no
            heartbeat for five seconds more counts as lost.
        reconcile_interval: Time between comparisons of open pull requests with the workflows.
        health_packages: How many packages of the base branch are built each night, those on which
            most others depend; 0 for none.
        follow_interval: Time in which moves of the base are collected before open pull requests
            are merged into it again; 0 if they are not.
        retest_interval: How often at most a head is tested again only since its dependencies have
            changed on the base.
    """

    model_config = SettingsConfigDict(env_prefix="OPAM_CI_GITHUB_", extra="forbid", frozen=True)

    repository: RepositoryName | None = None
    branch: RefName = "master"
    app_id: int | None = Field(default=None, ge=1)
    private_key_file: Path | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    webhook_secret_file: Path | None = None
    client_id: Word = ""
    client_secret_file: Path | None = None
    api_url: str = PUBLIC_API
    web_url: str = PUBLIC_WEB
    clone_url: str = ""
    checks: bool = False
    contexts: tuple[Context, ...] = Field(default=DEFAULT_CONTEXTS, min_length=1)
    advisory: tuple[About, ...] = ()
    page_url: str = ""
    temporal_ui: str = ""
    drafts: Literal["light", "full"] = "light"
    new_authors: NewAuthors = "full"
    author_hours: float = Field(default=0, ge=0)
    author_restarts: int = Field(default=10, ge=0, le=1000)
    request_timeout: timedelta = Field(
        default=TOTAL_TIMEOUT, ge=timedelta(seconds=1), le=TOTAL_TIMEOUT
    )
    reconcile_interval: timedelta = Field(default=timedelta(minutes=15), ge=timedelta(seconds=10))
    follow_interval: timedelta = Field(
        default=timedelta(minutes=5), ge=timedelta(0), le=timedelta(days=1)
    )
    retest_interval: timedelta = Field(
        default=timedelta(days=1), ge=timedelta(0), le=timedelta(days=365)
    )
    health_packages: int = Field(default=0, ge=0, le=MOST_POPULAR)

    @field_validator("api_url", "web_url", "page_url", "temporal_ui")
    @classmethod
    def _web_address(cls, url: str) -> str:
        if url and not url.startswith(("https://", "http://")):
            raise ValueError("not a URL that starts with https://")
        if "@" in urlsplit(url).netloc:
            raise ValueError("a URL with a user name or a password, which would be shown")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _contexts_differ(self) -> Self:
        names = [context.name for context in self.contexts]
        if len(set(names)) < len(names):
            raise ValueError("two contexts have the same name")
        return self

    @property
    def tracked(self) -> Tracked:
        """The repository and branch that this CI tests.

        Raises:
            UsageError: No repository is configured.
        """
        if self.repository is None:
            raise UsageError(
                "no repository: set OPAM_CI_GITHUB_REPOSITORY to OWNER/NAME, such as "
                "ocaml/opam-repository (see docs/github.md)"
            )
        return Tracked(repository=self.repository, branch=self.branch, app_id=self.app_id)

    def credentials(self) -> Credentials:
        """Returns the credentials for GitHub.

        Raises:
            UsageError: Neither an App nor a token is configured, or a file cannot be read.
        """
        if self.app_id is not None:
            if self.private_key_file is None:
                raise UsageError(
                    "the GitHub App's private key is missing: set "
                    "OPAM_CI_GITHUB_PRIVATE_KEY_FILE to the .pem file"
                )
            return AppCredentials(self.app_id, _secret(self.private_key_file, "PRIVATE_KEY_FILE"))
        if self.token is not None:
            return TokenCredentials(self.token)
        if self.token_file is not None:
            text = _secret(self.token_file, "TOKEN_FILE").decode(errors="replace").strip()
            return TokenCredentials(SecretStr(text))
        raise UsageError(
            "no credentials: set OPAM_CI_GITHUB_APP_ID and OPAM_CI_GITHUB_PRIVATE_KEY_FILE, "
            "or OPAM_CI_GITHUB_TOKEN_FILE (see docs/github.md)"
        )

    def webhook_secret(self) -> bytes:
        """Returns the secret with which GitHub signs webhooks.

        Raises:
            UsageError: There is none, or it is empty.
        """
        if self.webhook_secret_file is None:
            raise UsageError(
                "no webhook secret: set OPAM_CI_GITHUB_WEBHOOK_SECRET_FILE to a file with the "
                "secret of the webhook on GitHub"
            )
        secret = _secret(self.webhook_secret_file, "WEBHOOK_SECRET_FILE").strip()
        if not secret:
            raise UsageError(f"{self.webhook_secret_file} is empty: write the secret into it")
        return secret

    def client_secret(self) -> SecretStr | None:
        """Returns the App's client secret; None where nobody can sign in.

        Raises:
            UsageError: One of client id and secret is missing, or the file cannot be read.
        """
        if not self.client_id and self.client_secret_file is None:
            return None
        if not self.client_id or self.client_secret_file is None:
            raise UsageError(
                "to sign in takes both OPAM_CI_GITHUB_CLIENT_ID and "
                "OPAM_CI_GITHUB_CLIENT_SECRET_FILE: set the other one (docs/github.md)"
            )
        text = _secret(self.client_secret_file, "CLIENT_SECRET_FILE").decode(errors="replace")
        if not text.strip():
            raise UsageError(f"{self.client_secret_file} is empty: write the secret into it")
        return SecretStr(text.strip())

    def policy(self, checks: CheckOptions, *, namespace: str = "default") -> Policy:
        """Returns how pull requests are tested and reported.

        Args:
            checks: How a head that is not a draft is checked.
            namespace: Temporal's, for links to its Web UI.

        Raises:
            UsageError: No repository is configured, check runs without an App, or a URL to fetch
                from with a password in it.
        """
        clone_url = self.clone_url or f"https://github.com/{self.tracked.repository}.git"
        require_url(clone_url)
        if self.checks and self.app_id is None:
            raise UsageError("OPAM_CI_GITHUB_CHECKS needs a GitHub App: only Apps have check runs")
        if self.health_packages and checks.lint_only:
            raise UsageError(
                "OPAM_CI_GITHUB_HEALTH_PACKAGES asks for builds each night, and --lint-only builds "
                "nothing: leave out one of them"
            )
        target = self.page_url or None
        if target is None and self.temporal_ui:
            target = (
                f"{self.temporal_ui}/namespaces/{quote(namespace, safe='')}/workflows/{{workflow}}"
            )
        return Policy(
            clone_url=clone_url,
            branch=self.branch,
            posting=PostingOptions(
                contexts=tuple(
                    context.model_copy(update={"advisory": True})
                    if context.about in self.advisory
                    else context
                    for context in self.contexts
                ),
                check_runs=self.checks,
                heartbeat_timeout=self.request_timeout + SILENCE_AFTER_REQUEST,
            ),
            target=target,
            checks=checks,
            draft_checks=lighter(checks) if self.drafts == "light" else checks,
            new_authors=self.new_authors,
            author_hours=self.author_hours or None,
            author_restarts=self.author_restarts or None,
            health_packages=self.health_packages,
            follow_interval=self.follow_interval or None,
            retest_interval=self.retest_interval,
        )


def _secret(file: Path, variable: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"OPAM_CI_GITHUB_{variable}: cannot read {file}: {error.strerror}"
        ) from error
