"""What every page has: templates, addresses, and who is served."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from opam_ci import __version__
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.lint.finding import LintFinding
from opam_ci.core.platforms.page import extras
from opam_ci.web.addresses import commit_path, job_path, package_path, path, target_path
from opam_ci.web.assets import Assets
from opam_ci.web.formats import FILTERS
from opam_ci.web.glyphs import GLYPHS, STATES
from opam_ci.web.problems import PageError
from opam_ci.web.rendering import Templates, answer, tag_of
from opam_ci.web.sources import PageSources

_LOCAL = "local/"
"""Repositories that are clones, and not on GitHub."""

_GITHUB = "https://github.com"


@dataclass
class Site:
    """Sources and templates of all pages.

    Attributes:
        sources: Index, store and settings.
        acts_on: Repository whose jobs people can restart and cancel; empty for none.
        assets: Style and scripts.
        version: Changes with the code that makes pages.
    """

    sources: PageSources
    acts_on: str = ""
    assets: Assets = field(default_factory=Assets)
    version: str = field(init=False)
    _templates: Templates = field(init=False)

    def __post_init__(self) -> None:
        functions: dict[str, Callable[..., Any]] = {
            "asset": self.assets.path,
            "commit_path": commit_path,
            "extras": extras,
            "github_commit": github_commit,
            "github_line": github_line,
            "github_pull": github_pull,
            "job_path": job_path,
            "package_path": package_path,
            "target_path_of": newest_path,
        }
        names: dict[str, Any] = {
            "acts_on": self.acts_on,
            "glyphs": {standing.value: glyph for standing, glyph in GLYPHS.items()},
            "states": {state.value: glyph for state, glyph in STATES.items()},
        }
        self._templates = Templates(functions | names, FILTERS)
        self.version = tag_of(
            __version__, self.assets.version, self._templates.version, self.acts_on
        )

    def render(self, template: str, **values: object) -> str:
        """Renders a template."""
        return self._templates.render(template, **values)

    def page(self, request: Request, template: str, **values: object) -> Response:
        """Answers with a page, or with 304 if the client has it."""
        return answer(request, self._templates.render(template, **values))

    def problem(self, request: Request, problem: PageError) -> Response:
        """Answers that a page cannot be shown."""
        content = self._templates.render("problem.html", problem=problem)
        return answer(request, content, status=problem.status)

    def temporal_path(self, key: RevisionKey) -> str:
        """Returns where operators see a pull request's workflow; empty without a Web UI."""
        ui = self.sources.temporal_ui
        owner, _, repo = key.repository.partition("/")
        if not ui:
            return ""
        ref = PullRequestRef(owner=owner, repo=repo, number=key.number, branch=key.branch)
        namespace = quote(self.sources.namespace, safe="")
        return f"{ui}/namespaces/{namespace}/workflows/{quote(ref.workflow_id, safe='')}"


def newest_path(key: RevisionKey) -> str:
    """Returns the path of the page of a pull request's or branch's newest head."""
    return target_path(key.repository, key.target)


def github_commit(key: RevisionKey, commit: str) -> str:
    """Returns the address of a commit on GitHub; empty for one of a local clone."""
    if key.repository.startswith(_LOCAL):
        return ""
    return f"{_GITHUB}/{path(key.repository)}/commit/{path(commit)}"


def github_pull(key: RevisionKey) -> str:
    """Returns the address of a pull request on GitHub; empty for a branch of a local clone."""
    if key.repository.startswith(_LOCAL) or key.number is None:
        return ""
    return f"{_GITHUB}/{path(key.repository)}/pull/{key.number}"


def github_line(key: RevisionKey, finding: LintFinding) -> str:
    """Returns the address of the line of a finding on GitHub; empty for a local clone."""
    if key.repository.startswith(_LOCAL):
        return ""
    line = f"#L{finding.line}" if finding.line else ""
    return f"{_GITHUB}/{path(key.repository)}/blob/{path(key.head)}/{path(finding.file)}{line}"
