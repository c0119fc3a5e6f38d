"""Whatever is sent to the JSON API, the answer is one that its description has."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Failed, FailureReason, Passed
from opam_ci.core.jobs.selector import Taken
from opam_ci.web.addresses import job_name
from opam_ci.web.operation import PREFIX
from tests.support.fakes.ci_server import THREE, Answer, CiServer
from tests.support.fakes.command_line import FEDORA, job, key, write

FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", worker="w1"))
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31"))

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


EXAMPLES = 3
"""Of each operation, valid and invalid ones each."""


ANSWERS: tuple[Answer, ...] = (
    THREE, None, Taken(refusal="superseded"), UsageError("it has ended")
)  # fmt: skip
"""Of workflows, one after the other."""

KNOWN = {
    "owner": "o",
    "repo": "r",
    "number": 7,
    "commit": key(7).head,
    "job": job_name(job("a.1").id),
    "incident": 1,
    "package": "a",
}
"""Things that there are: chance finds none of them."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CiServer]:
    made = CiServer(tmp_path)
    write(made.index, key(7), (job("a.1"), FULL), (job("b.1", FEDORA), BROKEN))
    write(made.index, key(8), (job("a.1"), Passed(evidence=Evidence(rule="installed"))))
    made.write_log("l", b"one\ntwo\n")
    yield made
    made.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_answers_are_documented(server: CiServer, mode: GenerationMode) -> None:
    statuses: Counter[int] = Counter()
    answers = cycle(ANSWERS)

    def try_out(operation: Any) -> None:
        @settings(
            max_examples=EXAMPLES * (len(ANSWERS) if operation.method == "post" else 1),
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            if case.method == "POST":
                server.workflows.answer = next(answers)
                if isinstance(case.body, dict) and server.workflows.answer is None:
                    # A preview without an answer is a fault of the CI.
                    case.body["preview"] = False
            if mode is GenerationMode.POSITIVE:
                known = {
                    name: KNOWN.get(name, value) for name, value in case.path_parameters.items()
                }
                case.path_parameters = known
            response = case.call(headers={"authorization": "Bearer ghp_maintainer"}, timeout=60)
            case.validate_response(response, checks=list(CHECKS))
            statuses[response.status_code] += 1

        with suppress(Unsatisfiable):  # nothing is invalid where nothing can be sent
            check()

    with server.running() as url:
        schema = schemathesis.openapi.from_url(f"{url}{PREFIX}/openapi.json", timeout=60)
        for each in schema.get_all_operations():
            assert isinstance(each, Ok)
            try_out(each.ok())
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] > 40
        assert {200, 202, 404, 409} <= statuses.keys()
    else:
        assert statuses[400] > 20
