"""From a head on GitHub to what a workflow is asked to test."""

from urllib.parse import quote

from pydantic import Field

from opam_ci.core.github.action import HeadChanged
from opam_ci.core.github.origin import Origin, Report
from opam_ci.core.model import Frozen
from opam_ci.core.requests import CheckOptions, PullRequestRef, Revision


class Policy(Frozen):
    """How the pull requests of a repository on GitHub are tested and reported.

    Attributes:
        clone_url: Where commits are fetched from.
        branch: The base branch that is tracked.
        report: What GitHub is told, None for nothing; its target URL is made from `target`.
        target: Where statuses link to: a URL in which `{owner}`, `{repo}`, `{number}` and
            `{workflow}` (the workflow's id, quoted) are filled in; None for nowhere.
        checks: How a head is checked.
        draft_checks: How the head of a draft is.
    """

    clone_url: str = Field(min_length=1)
    branch: str
    report: Report | None = Report()
    target: str | None = None
    checks: CheckOptions = CheckOptions()
    draft_checks: CheckOptions = CheckOptions()

    def revision(self, action: HeadChanged, *, sure: bool = False) -> Revision:
        """Returns what is to be tested.

        Args:
            action: What was decided.
            sure: Whether GitHub itself was asked.
        """
        report = self.report
        if report is not None:
            target_url = self._target_url(action.pull_request)
            report = report.model_copy(update={"target_url": target_url})
        return Revision(
            head=action.head,
            base=action.base,
            repository="",
            options=self.draft_checks if action.draft else self.checks,
            again=action.again,
            origin=Origin(
                clone_url=self.clone_url,
                branch=self.branch,
                draft=action.draft,
                as_of=action.as_of,
                sure=sure,
                report=report,
            ),
        )

    def _target_url(self, pull_request: PullRequestRef) -> str | None:
        if self.target is None:
            return None
        words = {
            "{owner}": quote(pull_request.owner, safe=""),
            "{repo}": quote(pull_request.repo, safe=""),
            "{number}": pull_request.slug,
            "{workflow}": quote(pull_request.workflow_id, safe=""),
        }
        url = self.target
        for word, value in words.items():
            url = url.replace(word, value)
        return url


def lighter(checks: CheckOptions) -> CheckOptions:
    """Returns how a draft is checked: lint, and builds on the first platform only.

    No lower bounds and no reverse dependencies: they cost most and say least about work
    that is not done. `ready_for_review` then brings the rest.
    """
    first = checks.platforms[:1]
    return checks.model_copy(
        update={
            "platforms": tuple(
                platform.model_copy(update={"lower_bounds": False, "revdeps": False})
                for platform in first
            )
        }
    )
