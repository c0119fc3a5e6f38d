"""Reading opam's JSON report and switch state, which are hostile input."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.clients.runners.phases.report import REPORT_LIMIT, OpamReport, installed, parse_report

REPORT = {
    "opam-version": "2.3.0",
    "solution": [
        {"remove": {"name": "old", "version": "1"}},
        {"install": {"name": "dune", "version": "3.17.2"}},
        {"install": {"name": "cppo", "version": "1.8.0"}},
    ],
    "download-failures": {"far.1": "https://example.org/far.tgz (curl: code 404)"},
    "results": [
        {"action": {"build": {"name": "dune", "version": "3.17.2"}}, "result": "OK"},
        {
            "action": {"build": {"name": "cppo", "version": "1.8.0"}},
            "result": {
                "process-error": {
                    "code": "2",
                    "duration": 0.1,
                    "info": {
                        "command": "~/.opam/hooks/sandbox.sh build dune build -p cppo",
                        "exit-code": "2",
                    },
                    "output": ["Error: Unbound value"],
                }
            },
        },
        {
            "action": {"install": {"name": "cppo", "version": "1.8.0"}},
            "result": {"aborted": [{"build": {"name": "cppo", "version": "1.8.0"}}]},
        },
        {
            "action": {"install": {"name": "dune", "version": "3.17.2"}},
            "result": {"exception": "Sys_error(No space left on device)"},
        },
    ],
    "conflicts": {"causes": ["Missing dependency:\n- a -> b"]},
}


def parsed(report: object) -> OpamReport:
    found = parse_report(json.dumps(report).encode())
    assert found is not None
    return found


def test_a_report_is_parsed_action_by_action() -> None:
    report = parsed(REPORT)
    assert report.solution == ("dune.3.17.2", "cppo.1.8.0")
    assert report.conflicts == ("Missing dependency:\n- a -> b",)
    actions = [(a.action, a.package, a.result, a.exit_code, a.command) for a in report.actions]
    assert actions == [
        ("fetch", "far.1", "failed", None, "https://example.org/far.tgz (curl: code 404)"),
        ("build", "dune.3.17.2", "ok", None, None),
        ("build", "cppo.1.8.0", "failed", 2, "dune build -p cppo"),
        ("install", "cppo.1.8.0", "aborted", None, None),
        ("install", "dune.3.17.2", "failed", None, "Sys_error(No space left on device)"),
    ]


def test_what_is_not_a_report_is_none() -> None:
    for data in (b"", b"[]", b"{", b'"x"', b"\xff\xfe", b"[" * 100_000):
        assert parse_report(data) is None


def test_a_package_name_with_a_path_is_not_a_package() -> None:
    entry = {"install": {"name": "../../etc", "version": "passwd"}}
    assert parsed({"solution": [entry]}).solution == ()


def test_long_texts_and_lists_are_cut() -> None:
    action = {
        "action": {"build": {"name": "a", "version": "1"}},
        "result": {"exception": "x" * 9999},
    }
    report = parsed({"results": [action] * 6000, "conflicts": {"causes": ["y" * 9999] * 99}})
    assert len(report.actions) == 5000
    assert len(report.actions[0].command or "") == 400
    assert len(report.conflicts) == 50
    assert len(report.conflicts[0]) == 4000


_WORDS = (
    *("action", "build", "install", "name", "version", "result", "code", "info", "command"),
    *("process-error", "exception", "aborted", "causes"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*REPORT, *_WORDS]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(list(REPORT)), _JSON, max_size=5))
def test_no_shape_of_a_report_crashes(report: dict[str, object]) -> None:
    assert parse_report(json.dumps(report).encode()) is not None


@given(st.binary(max_size=200))
def test_no_bytes_crash(data: bytes) -> None:
    parse_report(data)
    installed(data)


def test_the_switch_state_lists_installed_packages() -> None:
    state = b'opam-version: "2.0"\ninstalled: [\n  "a.base"\n  "dune.3.17.2"\n]\nroots: ["x.1"]\n'
    assert installed(state) == frozenset({"a.base", "dune.3.17.2"})
    assert installed(b'opam-version: "2.0"\ninstalled: "a.1"\n') == frozenset({"a.1"})
    assert installed(b'opam-version: "2.0"\n') == frozenset()
    assert installed(b"\0\0\0") is None


HOSTILE_REPORTS = {
    "lists": b'{"solution":[' + b",".join([b"[]"] * (REPORT_LIMIT // 3 - 10)) + b"]}",
    "numbers": b'{"solution":[' + b",".join([b"1.5"] * (REPORT_LIMIT // 4 - 10)) + b"]}",
    "objects": b'{"solution":[' + b",".join([b'{"":0}'] * (REPORT_LIMIT // 7 - 10)) + b"]}",
    "open strings": b'"' + b'\\"' * (REPORT_LIMIT // 2 - 1),
    "open lists": b"[" * REPORT_LIMIT,
}


@pytest.mark.parametrize("case", HOSTILE_REPORTS)
def test_no_report_takes_much_more_memory_than_its_bytes(case: str) -> None:
    """Ten million lists took 673 MB."""
    tracemalloc.start()
    try:
        assert parse_report(HOSTILE_REPORTS[case]) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * REPORT_LIMIT


def test_a_report_with_a_long_log_is_read() -> None:
    lines = ["(a, b) : [1; 2; 3]"] * 1_000_000
    report = json.dumps({"solution": [{"install": {"name": "a", "version": "1"}}], "log": lines})
    assert len(report) < REPORT_LIMIT
    found = parse_report(report.encode())
    assert found is not None
    assert found.solution == ("a.1",)
