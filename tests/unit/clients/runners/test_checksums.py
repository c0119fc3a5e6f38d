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
    ("exits", "sums", "came_again"),
    [
        ([40, 0, 0], "aa", True),
        ([40, 0, 0], "ab", False),
        ([0], "", False),
        ([40, 22, 0], " a", None),
    ],
)
async def test_the_same_wrong_content_must_come_twice(
    exits: list[int], sums: str, *, came_again: bool | None
) -> None:
    codes, contents = iter(exits), iter(sums)

    async def run(step: Step, output: bytearray) -> ProcessResult:
        assert step.network
        if step is not FETCH:
            assert step.argv[-1] == URL
            output += f"{next(contents) * 64}  /tmp/x\n".encode()
        return ProcessResult(next(codes))

    assert await repeats([WRONG], [FETCH], run) is came_again
    assert list(codes) == []


async def test_nothing_is_fetched_again_without_a_wrong_checksum() -> None:
    async def run(_step: Step, _output: bytearray) -> ProcessResult:
        raise AssertionError

    assert await repeats([action("curl: code 404")], [FETCH], run) is None
