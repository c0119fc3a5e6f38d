"""Check runs: the values that are written by GitHub's Checks API."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from opam_ci.core.github.model import Sha
from opam_ci.core.github.user_actions import RESTART_ERRORS, RESTART_FAILED
from opam_ci.core.model import Frozen

ANNOTATIONS_LIMIT = 50
"""Annotations that GitHub accepts in one request; further ones are added by updates."""

Conclusion = Literal[
    "action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out"
]


class Annotation(Frozen):
    """A finding on lines of a file.

    Attributes:
        path: File, from the root of the repository.
        start_line: First line, from 1.
        end_line: Last line.
        annotation_level: Its severity.
        message: The finding; GitHub accepts 64 KiB.
        title: Its title.
    """

    path: str = Field(min_length=1)
    start_line: int = Field(ge=1)
    end_line: int = Field(ge=1)
    annotation_level: Literal["notice", "warning", "failure"]
    message: str = Field(min_length=1, max_length=16_000)
    title: str | None = Field(default=None, max_length=255)


class CheckOutput(Frozen):
    """The content of a check's page.

    Attributes:
        title: One line.
        summary: Markdown; GitHub accepts 65,535 characters.
        annotations: Any number; the client sends them in batches.
    """

    title: str = Field(min_length=1, max_length=255)
    summary: str = Field(max_length=65_535)
    annotations: tuple[Annotation, ...] = ()


class Button(Frozen):
    """A button on the check's page; pressing it causes the event `requested_action`."""

    label: str = Field(min_length=1, max_length=20)
    description: str = Field(min_length=1, max_length=40)
    identifier: str = Field(min_length=1, max_length=20)


BUTTON_ERRORS = Button(
    label="Restart CI errors",
    description="Run jobs with CI errors again",
    identifier=RESTART_ERRORS,
)
BUTTON_FAILED = Button(
    label="Restart failed",
    description="Run failed jobs again",
    identifier=RESTART_FAILED,
)


class CheckRun(Frozen):
    """A check run as it should be.

    Attributes:
        name: Name of its context.
        head_sha: Commit it is about.
        external_id: `PullRequestRef.workflow_id`, which identifies the pull request of a
            pressed button.
        status: Its progress, while it has no conclusion.
        conclusion: Its result; a check run is completed only by this.
        details_url: Page of the pull request.
        started_at: When the testing began.
        completed_at: When it was decided.
        output: Content of its page.
        actions: Buttons.
    """

    name: str = Field(min_length=1)
    head_sha: Sha
    external_id: str
    status: Literal["queued", "in_progress"] | None = None
    conclusion: Conclusion | None = None
    details_url: str | None = None
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    output: CheckOutput | None = None
    actions: Annotated[tuple[Button, ...], Field(max_length=3)] = ()

    @model_validator(mode="after")
    def _either_status_or_conclusion(self) -> Self:
        if (self.status is None) == (self.conclusion is None):
            raise ValueError("a check run has either a status or a conclusion")
        return self
