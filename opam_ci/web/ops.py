"""The page of operators."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from opam_ci.core.pages.ops import OpsIncident, OpsPage
from opam_ci.core.pages.waiting import wait_text
from opam_ci.core.text.health import (
    drain_text,
    has_many_faults,
    place_text,
    resolve_preview,
    span,
)
from opam_ci.core.text.status import CAUSE_TEXTS
from opam_ci.web.addresses import target_path
from opam_ci.web.rendering import answer
from opam_ci.web.site import Site

_BAR_WIDTH, _BAR_HEIGHT = 4, 16
"""Size of the bar of an hour in a sparkline, in units of its view box."""


class OpsPages:
    """The page of operators."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def page(self, request: Request) -> Response:
        """Answers with the page."""
        found = await self._site.sources.ops()
        content = self._site.render(
            "ops.html",
            page=found,
            ago=lambda at: span(found.as_of - at),
            cause_texts={cause.value: text for cause, text in CAUSE_TEXTS.items()},
            drain=drain(found),
            has_many_faults=has_many_faults,
            place=place_text,
            preview=preview,
            spark=spark,
            target_path=target_path,
            wait_text=wait_text,
        )
        return answer(request, content)


def preview(each: OpsIncident) -> str:
    """Returns what the resolution of an incident would do."""
    return resolve_preview(each.restarts, each.restart_pull_requests, each.spent)


def drain(page: OpsPage) -> str:
    """Returns how long the queue takes."""
    queued = sum(each.queued for each in page.queue)
    return drain_text(queued, sum(each.hour.attempts for each in page.pools))


def spark(numbers: Sequence[int]) -> str:
    """Returns the path of a sparkline of bars, for a view box as wide as there are numbers.

    Args:
        numbers: Of each hour; the highest is as high as the box.
    """
    highest = max(numbers, default=0)
    bars = []
    for place, number in enumerate(numbers):
        if number:
            # A single fault is seen too.
            height = max(2, round(_BAR_HEIGHT * number / highest))
            left = _BAR_WIDTH * place
            bars.append(f"M{left} {_BAR_HEIGHT}v-{height}h{_BAR_WIDTH - 1}v{height}z")
    return "".join(bars)
