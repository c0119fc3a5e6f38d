"""The error for requests that GitHub refuses permanently."""

from opam_ci.core.errors import OpamCiError


class GitHubRefusedError(OpamCiError):
    """A retry would get the same response: record it once, do not retry.

    A commit or repository that is gone (404, 410), an invalid value (422), a permission that
    the App or the token lacks (a 403 that is not a rate limit).

    Attributes:
        status: HTTP status.
        message: GitHub's message.
    """

    def __init__(self, what: str, *, status: int, message: str) -> None:
        super().__init__(f"GitHub refuses {what}: {status} {message}".rstrip())
        self.status = status
        self.message = message
