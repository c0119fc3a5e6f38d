"""The option `--steps`, and a section at the end of a run with what was simulated."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.simulation.harness import Simulation, simulate

DEFAULT_STEPS = 100_000
"""Of all models together: a minute with `-n 2`. A release is tested with
`./opam-ci test tests/simulation -k test_model -n 2 --steps 1000000`."""

_DONE = "simulated"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--steps",
        type=int,
        default=DEFAULT_STEPS,
        help="steps of all simulations in tests/simulation together; they share them out",
    )


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Callable[[type[Simulation], float], None]:
    """Runs a machine for its share of all steps."""
    # Without the folder on the command line, pytest adds the option too late.
    wanted = request.config.getoption("--steps", DEFAULT_STEPS)

    def report(line: str) -> None:
        request.node.user_properties.append((_DONE, line))

    def run_share(machine: type[Simulation], share: float) -> None:
        simulate(machine, int(wanted * share), report, complete=wanted >= DEFAULT_STEPS)

    return run_share


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith("test_model_") and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(3600))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [each for some in terminalreporter.stats.values() for each in some]
    lines = [
        line
        for report in reports
        for name, line in getattr(report, "user_properties", ())
        if name == _DONE and getattr(report, "when", "") == "call"
    ]
    if lines:
        terminalreporter.section("simulated")
        for line in sorted(lines):
            terminalreporter.line(line)
