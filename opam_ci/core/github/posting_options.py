"""How the results of a head are posted to GitHub."""

from datetime import timedelta

from pydantic import Field

from opam_ci.core.github.debounce import Debounce
from opam_ci.core.github.status import DEFAULT_CONTEXTS, Context
from opam_ci.core.model import Frozen

SILENCE_AFTER_REQUEST = timedelta(seconds=5)
"""Added to the request timeout: a worker without heartbeats for so long counts as lost, and has
no request under way that could overwrite a newer status."""

LONGEST_REQUEST = timedelta(seconds=60) + SILENCE_AFTER_REQUEST
"""That sum for the default request timeout."""


class PostingOptions(Frozen):
    """Which statuses and check runs a head has on GitHub.

    Attributes:
        contexts: Which statuses.
        target_url: Where they link to, None for nowhere.
        check_runs: Whether each context has a check run too; needs a GitHub App.
        debounce: How often a status is written.
        heartbeat_timeout: Silence after which the worker that posts counts as lost.
    """

    contexts: tuple[Context, ...] = Field(default=DEFAULT_CONTEXTS, min_length=1)
    target_url: str | None = None
    check_runs: bool = False
    debounce: Debounce = Debounce()
    heartbeat_timeout: timedelta = LONGEST_REQUEST
