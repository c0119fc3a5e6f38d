"""Whether the network works: facts from hosts of the CI's own choice."""

import pytest

from opam_ci.clients.runners.phases.network_probe import probe
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.process import ProcessResult

NAMED = "https://mirror.example/cache"
NUMBERED = "http://192.0.2.1/cache"
LOCAL = "http://localhost:8080/"
FILE = "file:///srv/mirror"
WORKS = {"mirror": True}
GONE = {"mirror": False}


@pytest.mark.parametrize(
    ("urls", "exits", "facts"),
    [
        ([], [], {}),
        ([FILE, "ftp://x.example"], [], {}),
        ([FILE, NAMED], [0], WORKS | {"dns": True}),
        ([NAMED, NAMED, NUMBERED], [0], WORKS | {"dns": True}),
        ([NUMBERED], [0], WORKS),
        ([LOCAL], [0], WORKS),
        ([NUMBERED, NAMED], [0, 0], WORKS | {"dns": True}),
        ([NUMBERED, NAMED], [0, 6], WORKS | {"dns": False}),
        ([NAMED], [7], GONE),
        ([NAMED], [28], GONE),
        ([NAMED, NUMBERED], [6, 0], WORKS | {"dns": False}),
        ([NAMED, "http://other.example"], [6, 0], WORKS | {"dns": True}),
        ([NAMED, "http://other.example"], [6, 6], GONE | {"dns": False}),
        ([NAMED, "http://b.example", "http://c.example"], [7, 7], GONE),
        ([NAMED, NUMBERED], [127], {}),
        ([NAMED, NUMBERED], [None], {}),
    ],
)
async def test_facts_follow_from_curls_exit_codes(
    urls: list[str], exits: list[int | None], facts: dict[str, bool]
) -> None:
    codes = iter(exits)

    async def run(step: Step, output: bytearray) -> ProcessResult:
        assert step.network
        assert step.argv[-1] in urls
        assert not output
        return ProcessResult(next(codes))

    assert await probe(urls, run) == facts
    assert list(codes) == []
