"""Whatever is sent to the JSON API, the answer is one that its description has."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
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

from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Failed, FailureReason, Passed
from opam_ci.web.operation import PREFIX
from tests.support.fakes.ci_server import CiServer
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


EXAMPLES = 4
"""Of each operation, valid and invalid ones each."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    made = CiServer(tmp_path)
    write(made.index, key(7), (job("a.1"), FULL), (job("b.1", FEDORA), BROKEN))
    write(made.index, key(8), (job("a.1"), Passed(evidence=Evidence(rule="installed"))))
    made.write_log("l", b"one\ntwo\n")
    with made.running() as url:
        yield url
    made.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_answers_are_documented(url: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}{PREFIX}/openapi.json")
    statuses: Counter[int] = Counter()

    def try_out(operation: Any) -> None:
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            headers = {"authorization": "Bearer ghp_maintainer"}
            response = case.call(headers=headers)
            case.validate_response(response, checks=list(CHECKS))
            statuses[response.status_code] += 1

        with suppress(Unsatisfiable):  # nothing is invalid where nothing can be sent
            check()

    for each in schema.get_all_operations():
        assert isinstance(each, Ok)
        try_out(each.ok())
    assert statuses.total() > 20
    assert statuses[200 if mode is GenerationMode.POSITIVE else 400] > 5
