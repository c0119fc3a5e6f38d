"""Fault drills: sources that cannot be had, the job's own and a dependency's."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from opam_ci.clients.runners.images.apt_sources import read_host
from opam_ci.core.jobs.job import Phase
from tests.support.samples.drills import (
    Drill,
    Faulty,
    Result,
    check,
    closed_port,
    own_and_dependency,
    run_all,
    source,
    within,
)
from tests.support.worlds.rootfs import World

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

HANGS = within(fetch=6)


Host = Callable[[], str]
"""Returns the URL of a host that no other drill asks: all leave one alone that has just refused."""


def faults(host: Host) -> Iterator[Drill]:
    """Yields faults for which it does not matter whose source it is: they are ours."""
    refused = f"http://127.0.0.1:{closed_port()}/x.tgz"
    mirror = f"{host()}/status/404"
    # The probe of the network asks the archive of system packages, which has a name.
    unresolved = "source_host" if read_host().direct else "dns"
    table = [
        (
            "name not resolved",
            "http://no-such-host.invalid/x.tgz",
            unresolved,
            "curl-dns",
            "code 6",
        ),
        ("connection refused", refused, "source_host", "curl-connection", "code 7"),
        ("429", f"{host()}/status/429/x.tgz", "source_host", "http-limited", "code 429"),
        ("500", f"{host()}/status/500/x.tgz", "source_host", "http-limited", "code 500"),
        ("503", f"{host()}/status/503/x.tgz", "source_host", "http-limited", "code 503"),
        ("truncated", f"{host()}/truncated/x.tgz", "source_host", "curl-limited", "code 18"),
    ]
    for name, place, cause, rule, shown in table:

        def make(
            title: str,
            packages: Mapping[str, str],
            *,
            cause: str = cause,
            rule: str = rule,
            shown: str = shown,
        ) -> Drill:
            return Drill(
                title,
                packages,
                f"errored({cause})",
                rule,
                Phase.FETCH,
                shown,
                mirrors=(mirror,),
            )

        yield from own_and_dependency(name, source(place), make)

    def hangs(title: str, packages: Mapping[str, str]) -> Drill:
        rule, shown = "timeout-fetch", "ended by the supervisor after"
        fault = "errored(source_host)"
        return Drill(title, packages, fault, rule, Phase.FETCH, shown, timeouts=HANGS)

    yield from own_and_dependency("hang", source(f"{host()}/hang/x.tgz"), hangs)


def failures(host: Host) -> Iterator[Drill]:
    """Yields faults of the source itself: the package's, or the dependency's."""
    url = host()
    table = [
        ("404", source(f"{url}/status/404/x.tgz"), "source", "source-not-found", "code 404"),
        ("410", source(f"{url}/status/410/x.tgz"), "source", "source-not-found", "code 410"),
        (
            "wrong checksum",
            source(f"{url}/ok/x.tgz", "0" * 64),
            "checksum",
            "source-checksum",
            "Bad checksum, expected sha256=000",
        ),
        (
            "dead git source",
            f'url {{ src: "git+{url}/status/404/x.git" }}\n',
            "source",
            "repository-gone",
            "not found",
        ),
    ]
    for name, section, reason, rule, shown in table:
        yield Drill(
            f"{name}, own",
            {"asked.1": section},
            f"failed({reason})",
            rule,
            Phase.FETCH,
            shown,
        )
        yield Drill(
            f"{name}, of a dependency",
            {"asked.1": 'depends: ["dep"]\n', "dep.1": section},
            "failed(dependency)",
            rule,
            Phase.FETCH,
            shown,
            blame="dep.1",
        )
    unfixed = f'url {{ src: "{url}/ok/x.tgz" }}\n'
    yield Drill(
        "no checksum, own",
        {"asked.1": unfixed},
        "failed(source)",
        "source-without-checksum",
        Phase.BUILD,
        "a source of asked.1 has no checksum",
    )
    yield Drill(
        "no checksum, of a dependency",
        {"asked.1": 'depends: ["dep"]\n', "dep.1": unfixed},
        "failed(dependency)",
        "source-without-checksum",
        Phase.DEPENDENCIES,
        "a source of dep.1 has no checksum",
        blame="dep.1",
    )
    refused = f"git+http://127.0.0.1:{closed_port()}/x.git"
    yield Drill(
        "git host refuses",
        {"asked.1": f'url {{ src: "{refused}" }}\n'},
        "errored(source_host)",
        "connection",
        Phase.FETCH,
        "unable to access",
        mirrors=(f"{url}/status/404",),
    )


def nowhere() -> str:
    return "http://x.example"


NAMES = [drill.name for drill in [*faults(nowhere), *failures(nowhere)]]


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[Drill, Result]]]:
    with ExitStack() as stack:

        def host() -> str:
            return stack.enter_context(Faulty().running()).url

        drills = [*faults(host), *failures(host)]
        found = run_all(World(tmp_path_factory.mktemp("drills")), drills)
        yield {drill.name: (drill, found[drill.name]) for drill in drills}


@pytest.mark.parametrize("name", NAMES)
def test_drill(results: dict[str, tuple[Drill, Result]], name: str) -> None:
    check(*results[name])
