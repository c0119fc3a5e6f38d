"""Platforms for people: a line each, and the page docs/platforms.md."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from opam_ci.core.model import Frozen
from opam_ci.core.opam import version
from opam_ci.core.platforms.model import Platform, PlatformTable
from opam_ci.core.platforms.schema import (
    ArchitectureEntry,
    PlatformDefaults,
    PlatformEntry,
    PoolEntry,
)

_INTRODUCTION = """\
# Platforms and pools

<!-- Made by `opam-ci platforms --markdown`: change opam_ci/platforms.toml, and not this page. -->

A *platform* is a distribution with an OCaml, an architecture and an opam. A *pool* is the
workers that can build for an operating system and an architecture with one runner; its jobs are in
the task queue `build-POOL`. A platform may be in several pools, by preference: a head is built in
the first one that is served. `opam-ci platforms` lists them, with what this machine can serve;
`opam-ci check --platform NAME` builds on the ones with that name or glob (`'debian-13-*/amd64'`),
and by default on the first of the `rootfs` runner.

On a platform with lower bounds, packages are also built with the oldest dependencies that they
allow; on one with reverse dependencies, the packages that depend on them are built too. Whether a
package is available on a platform is decided by opam's solver when the job runs.
"""

_NATIVE_RUNNER = """\
The `native` runner is for systems without namespaces; [native.md](native.md) has its set-up, what
it protects and what it cannot. It is untried on macOS and FreeBSD.
"""

_OWN_FILE = """\
## A file of your own

The tables above are made from `opam_ci/platforms.toml`. A file of your own replaces it as a whole:

```
opam-ci platforms --check my-platforms.toml     # a line for each error
opam-ci check --platforms my-platforms.toml --platform 'fedora-*'
export OPAM_CI_PLATFORMS=/etc/opam-ci/platforms.toml
```

```toml
[defaults]
opam = "dev"
runner = "container"
image = "docker.io/ocaml/opam:{distribution}-ocaml-{ocaml}"
timeouts = { build = "90 min" }        # of all platforms of this file

[architectures.arm64.timeouts]
test = "2 h"                           # in place of the defaults'

[pools.linux-amd64]
arch = ["amd64", "i386"]

[pools.linux-arm64]
arch = "arm64"

[[platforms]]                          # 2 distributions x 2 releases: 4 platforms
distribution = ["debian-13", "fedora-43"]
ocaml = ["4.14", "5.4"]
lower_bounds = true

[[platforms]]
distribution = "debian-13"
ocaml = "5.4"
variant = "flambda"
arch = ["arm64", "i386"]               # i386 is built under linux32
timeouts = { build = "3 h" }           # in place of the architecture's
```

A pool without `runner` has that of `defaults`. With `runner = ["container", "rootfs"]`, a platform
is built in the pool of the first of these runners that is served.

A time limit is written as `90 s`, `15 min` or `2 h`, at most 24 h, for the phases of
[a build job](builds.md#phases). The nearest counts: the platform's, else its architecture's, else
that of `defaults`, else the product's own.

On Linux, platforms of 32-bit architectures are built under `linux32`, in a pool of machines that
can run them. In `image`, `{distribution}` and `{ocaml}` are replaced by those of the platform:
OCaml with its variant, and `-` for `~`. An image is named by tag. Before the first job of a head on
a platform, its tag is resolved, and all jobs and attempts of that head there use the image with
the resulting digest.
Registries are queried without credentials. An image whose name starts with `localhost/` is looked
up in the podman of the machine that resolves it. A registry that does not respond is an
infrastructure fault (cause `image`) on the platforms with its images, and on no other: their jobs
wait for the retry, end as `errored(image)`, and a restart resolves the tag again; analysis, lint
and all other platforms go on. A tag that its registry does not have, or only with credentials,
remains a tag, which the build workers must be able to pull.
"""


def extras(platform: Platform) -> list[str]:
    """Return the kinds of jobs on a platform besides builds and tests, and its personality."""
    return [
        extra
        for extra, applies in (
            ("lower bounds", platform.lower_bounds),
            (_revdeps(platform), platform.revdeps),
            (platform.personality or "", platform.personality is not None),
        )
        if applies
    ]


def _revdeps(platform: Platform) -> str:
    words = (
        "direct" if platform.only_direct_revdeps else "",
        "" if platform.revdep_tests else "untested",
        "revdeps",
    )
    return " ".join(filter(None, words))


def page(table: PlatformTable) -> str:
    """Return docs/platforms.md."""
    platforms = sorted(table.platforms, key=_order)
    names = [
        ("Distributions", dict.fromkeys(one.distribution for one in platforms)),
        ("Architectures", dict.fromkeys(sorted(one.arch for one in platforms))),
        ("OCaml", dict.fromkeys(one.release for one in sorted(platforms, key=_release))),
    ]
    parts = [
        _INTRODUCTION,
        "## Pools\n",
        _table(
            ("pool", "system", "architectures", "runner", "platforms", "machines"),
            (
                (
                    f"`{pool.name}`",
                    pool.os,
                    ", ".join(pool.arch),
                    pool.runner.value,
                    str(sum(each.pool == pool.name for one in platforms for each in one.choices)),
                    pool.description,
                )
                for pool in table.pools
            ),
        ),
        f"## The {len(platforms)} platforms\n",
        *(f"{title}: {', '.join(values)}.\n" for title, values in names),
        _matrix(platforms),
        *_native(platforms),
        *_limits(platforms),
        _OWN_FILE,
        *(
            f"### Keys of `{title}`\n\n{_keys(model)}"
            for title, model in (
                ("[defaults]", PlatformDefaults),
                ("[architectures.NAME]", ArchitectureEntry),
                ("[pools.NAME]", PoolEntry),
                ("[[platforms]]", PlatformEntry),
            )
        ),
    ]
    return "\n".join(parts)


def _matrix(platforms: Iterable[Platform]) -> str:
    return _table(
        ("platform", "opam", "pool", "lower bounds", "reverse dependencies"),
        (
            (
                f"`{one.name}`",
                one.opam,
                ", ".join(each.pool for each in one.choices),
                "yes" if one.lower_bounds else "",
                _revdeps(one).removesuffix("revdeps").strip() or "yes" if one.revdeps else "",
            )
            for one in platforms
        ),
    )


def _native(platforms: Iterable[Platform]) -> list[str]:
    if not any(one.runner == "native" for one in platforms):
        return []
    return [_NATIVE_RUNNER]


def _limits(platforms: Sequence[Platform]) -> list[str]:
    own = {
        one.name: ", ".join(
            f"{phase} {_duration(limit)}" for phase, limit in one.timeouts.overrides.items()
        )
        for one in platforms
        if one.timeouts.overrides
    }
    if not own:
        return []
    rows = ((f"`{name}`", limits) for name, limits in own.items())
    return ["## Time limits that differ\n", _table(("platform", "limits"), rows)]


def _keys(model: type[Frozen]) -> str:
    return _table(
        ("key", "", "meaning"),
        (
            (f"`{name}`", "required" if field.is_required() else "", field.description or "")
            for name, field in model.model_fields.items()
        ),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def _duration(limit: timedelta) -> str:
    seconds = int(limit.total_seconds())
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _release(platform: Platform) -> tuple[object, str]:
    return version.key(platform.ocaml), platform.variant or ""


def _order(platform: Platform) -> tuple[object, ...]:
    return (
        version.key(platform.distribution),
        platform.arch,
        *_release(platform),
        platform.opam not in {"system", "dev"},
        version.key(platform.opam),
    )
