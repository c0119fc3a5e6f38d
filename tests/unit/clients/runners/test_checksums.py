"""Whether a wrong checksum comes again."""

import pytest

from opam_ci.clients.runners.phases.checksums import refused, repeats
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.facts import OpamAction

URL = "https://example.org/a.tgz"
FETCH = Step(("opam", "install", "--download-only", "a.1"), network=True)


def action(reason: str) -> OpamAction:
    return OpamAction(action="fetch", package="a.1", result="failed", command=f"{URL} ({reason})")


WRONG = action("Bad checksum, expected sha256=00")


def test_only_what_opam_refused_is_downloaded_again() -> None:
    assert refused([WRONG, WRONG, action("curl: code 404 while downloading a")]) == (URL,)
    assert refused([WRONG.model_copy(update={"command": "file:///etc/x (Bad checksum)"})]) == ()


@pytest.mark.parametrize(
    ("exits", "repeated"),
    [([40, 0], True), ([40, 1], False), ([0], False), ([40, 2], None)],
)
async def test_the_same_wrong_content_must_come_twice(
    exits: list[int], *, repeated: bool | None
) -> None:
    codes = iter(exits)

    async def run(step: Step, output: bytearray) -> ProcessResult:
        assert step.network
        assert not output
        if step is not FETCH:
            assert step.argv[-1] == URL
        return ProcessResult(next(codes))

    assert await repeats([WRONG], [FETCH], run) is repeated
    assert list(codes) == []


async def test_nothing_is_fetched_again_without_a_wrong_checksum() -> None:
    async def run(_step: Step, _output: bytearray) -> ProcessResult:
        raise AssertionError

    assert await repeats([action("curl: code 404")], [FETCH], run) is None
