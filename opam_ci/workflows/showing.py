"""What a pull request's workflow shows of itself in the Temporal Web UI."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.requests import PullRequestRef
    from opam_ci.core.summary import State, Summary
    from opam_ci.core.text import markdown_matrix
    from opam_ci.workflows import options


def show(ref: PullRequestRef, summary: Summary) -> None:
    """Makes the state visible in the Web UI, and findable by search attributes."""
    workflow.set_current_details(markdown_matrix(summary))
    retrying = summary.counts.retrying and summary.state is State.PENDING
    workflow.upsert_search_attributes(
        [
            options.CI_REPO.value_set(f"{ref.owner}/{ref.repo}"),
            options.CI_PULL_REQUEST.value_set(ref.slug),
            options.CI_STATE.value_set("retrying" if retrying else summary.state.value),
            options.CI_CAUSES.value_set([cause.value for cause in summary.causes]),
            options.CI_HEAD.value_set(summary.head),
        ]
    )
