"""What GitHub refuses for good."""

from opam_ci.core.errors import OpamCiError


class GitHubRefusedError(OpamCiError):
    """GitHub will give the same answer again: record it once, do not try again.

    A commit or repository that is gone (404, 410), a value that it does not take (422), a
    permission that the App or the token lacks (403 that is no rate limit).

    Attributes:
        status: HTTP status.
        message: GitHub's own words.
    """

    def __init__(self, what: str, *, status: int, message: str) -> None:
        super().__init__(f"GitHub refuses {what}: {status} {message}".rstrip())
        self.status = status
        self.message = message
