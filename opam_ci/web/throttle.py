"""Limits on what strangers may have us ask GitHub.

Its limits are shared with the statuses that the CI posts, and it blocks addresses that ask about
too many invalid tokens or codes: strangers must bring neither about.
"""

import time
from collections import deque
from collections.abc import Callable

from opam_ci.web.refusal import RefusedError

_WINDOW = 60.0
"""Seconds."""


class Throttle:
    """At most so many requests in a minute.

    Args:
        most: Of all together.
        most_each: Of one account.
        clock: For tests.
    """

    def __init__(
        self,
        most: int,
        *,
        most_each: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._most_each = most if most_each is None else most_each
        self._clock = clock
        self._recent: deque[tuple[float, str]] = deque()

    def count(self, who: str = "") -> None:
        """Counts a request.

        Args:
            who: The account; empty where none is known.

        Raises:
            RefusedError: It is one too many.
        """
        now = self._clock()
        while self._recent and now - self._recent[0][0] >= _WINDOW:
            self._recent.popleft()
        own = [at for at, each in self._recent if each == who]
        if len(self._recent) >= self._most or len(own) >= self._most_each:
            first = own[0] if len(own) >= self._most_each else self._recent[0][0]
            wait = int(_WINDOW - (now - first)) + 1
            raise RefusedError(
                429,
                f"too many requests at the moment: repeat it in {wait} s",
                headers={"retry-after": str(wait)},
            )
        self._recent.append((now, who))
