"""What cannot be shown, as a page: what is wrong, and where to go from there."""

from dataclasses import dataclass

from opam_ci.core.errors import OpamCiError


@dataclass(frozen=True)
class Way:
    """A link that leads on.

    Attributes:
        text: What it is called.
        path: Where it leads.
    """

    text: str
    path: str


ALL_PULL_REQUESTS = Way("All pull requests", "/")


class PageError(OpamCiError):
    """A page that cannot be shown.

    Attributes:
        status: Of the response.
        title: What is wrong, in a few words.
        advice: Why, and what to do.
        ways: Where to go from there.
        mend: A filter that can be mended in place, and the path that it is for.
    """

    def __init__(
        self,
        status: int,
        title: str,
        advice: str,
        ways: tuple[Way, ...] = (ALL_PULL_REQUESTS,),
        *,
        mend: Way | None = None,
    ) -> None:
        super().__init__(f"{title}: {advice}")
        self.status = status
        self.title = title
        self.advice = advice
        self.ways = ways
        self.mend = mend


def no_such_page() -> PageError:
    """Returns the problem of a path that leads nowhere."""
    return PageError(404, "No such page", "Check the address, or start from the list.")
