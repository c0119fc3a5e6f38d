"""The file of platforms: its keys, its errors, and the matrix."""

import json
import tomllib
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import PhaseTimeouts
from opam_ci.core.platforms.debian import (
    DebianRoot,
    debian_root,
    embedded_root,
)
from opam_ci.core.platforms.file import InvalidPlatformFile, parse_platforms
from opam_ci.core.platforms.limits import PhaseLimits
from opam_ci.core.platforms.model import (
    ARCHITECTURES,
    EMBEDDED,
    Platform,
    PlatformTable,
    Runner,
    architectures,
)
from opam_ci.core.platforms.page import extras, page
from opam_ci.core.platforms.select import canary_platform, choose, embedded, filtered, named

DEFAULT = load_platforms(None)
ROOTFS = Runner.ROOTFS
POOLS = """
[pools.linux-amd64]
arch = ["amd64", "i386"]
[pools.linux-arm64]
arch = "arm64"
"""
BOXES = """
pool = "boxes"
[pools.boxes]
arch = "amd64"
runner = "container"
"""
ENTRY = """
[[platforms]]
distribution = "debian-13"
ocaml = "5.4"
"""


def read(*parts: str) -> PlatformTable:
    return parse_platforms("\n".join(parts))


def problems(*parts: str) -> tuple[str, ...]:
    with pytest.raises(InvalidPlatformFile) as caught:
        read(*parts)
    assert all(line.isprintable() for line in caught.value.problems)
    return caught.value.problems


def names(platforms: tuple[Platform, ...]) -> list[str]:
    return [one.name for one in platforms]


def test_lists_stand_for_every_combination() -> None:
    table = read(
        POOLS,
        '[[platforms]]\ndistribution = ["debian-13", "fedora-43"]\nocaml = ["4.14", "5.5~beta1"]',
        'variant = "flambda"\narch = ["amd64", "arm64"]\nopam = "2.4"',
    )
    assert len(table.platforms) == 8
    assert table.platforms[-1].name == "fedora-43-ocaml-5.5-beta1-flambda-opam-2.4/arm64"
    assert [one.pool for one in table.platforms] == ["linux-amd64"] * 4 + ["linux-arm64"] * 4


def test_missing_keys_have_the_products_defaults() -> None:
    [platform] = read(POOLS, ENTRY).platforms
    assert platform == Platform(
        distribution="debian-13", ocaml="5.4", arch="amd64", pool="linux-amd64"
    )
    assert (platform.runner, platform.compiler) == (Runner.ROOTFS, "ocaml-system")


CONTAINERS = """
[defaults]
runner = "container"
image = "localhost/x:{distribution}-{ocaml}"
opam = "dev"
[pools.roots]
arch = ["amd64", "i386"]
runner = "rootfs"
[pools.boxes]
arch = ["amd64", "arm64"]
"""


def test_a_platform_has_the_runner_of_its_pool() -> None:
    pool = '[defaults]\nimage = "x:1"\n[pools.p]\narch = "amd64"\nrunner = "native"\n'
    [only] = read(pool, ENTRY).platforms
    assert (only.runner, only.image, only.compiler) == (Runner.NATIVE, None, "")
    [by_default] = read(CONTAINERS, ENTRY, 'variant = "fp"').platforms
    assert (by_default.pool, by_default.image) == ("boxes", "localhost/x:debian-13-5.4-fp")
    [by_runner] = read(CONTAINERS, ENTRY, 'runner = "rootfs"').platforms
    assert (by_runner.pool, by_runner.opam) == ("roots", "system")
    [by_pool] = read(CONTAINERS, ENTRY, 'pool = "roots"\ncompiler = "ocaml.5.4.0"').platforms
    assert (by_pool.runner, by_pool.compiler) == (Runner.ROOTFS, "ocaml.5.4.0")
    [own] = read(CONTAINERS, ENTRY, 'arch = "arm64"\nimage = "h:5000/y"').platforms
    assert (own.pool, own.image) == ("boxes", "h:5000/y")


def test_a_platform_of_several_runners_is_one_and_built_where_it_is_served() -> None:
    [platform] = read(CONTAINERS, ENTRY, 'runner = ["container", "rootfs"]').platforms
    assert platform.name == "debian-13-ocaml-5.4/amd64"
    box, root = platform.choices
    assert (box.runner, box.pool, box.opam, box.compiler) == (Runner.CONTAINER, "boxes", "dev", "")
    assert (root.runner, root.pool, root.opam) == (Runner.ROOTFS, "roots", "system")
    assert (root.image, root.compiler, root.name) == (None, "ocaml-system", platform.name)
    assert choose(platform, {"roots", "boxes"}) == box
    assert choose(platform, {"roots"}) == root
    assert choose(platform, {"others"}) is None
    assert filtered([platform], pools=["roots"]) == (platform,)
    [named_pools] = read(
        CONTAINERS,
        '[pools.more]\narch = "amd64"',
        ENTRY,
        'runner = ["rootfs", "container"]\npool = ["more", "roots"]',
    ).platforms
    assert [each.pool for each in named_pools.choices] == ["roots", "more"]


def test_a_canary_is_built_on_the_pools_own_platform_and_runner() -> None:
    table = read(
        CONTAINERS,
        ENTRY,
        'arch = "arm64"',
        ENTRY,
        'arch = "i386"\nrunner = "rootfs"\nvariant = "fp"',
        ENTRY,
        'runner = ["container", "rootfs"]',
        '[pools.idle]\narch = "s390x"',
    )
    box, root = canary_platform(table, "boxes"), canary_platform(table, "roots")
    assert (box.arch, box.runner, box.otherwise) == ("amd64", Runner.CONTAINER, ())
    assert (root.arch, root.runner, root.pool) == ("amd64", Runner.ROOTFS, "roots")
    with pytest.raises(UsageError, match="no platform of the file is built in the pool idle"):
        canary_platform(table, "idle")
    with pytest.raises(UsageError, match=r"no such pool: 'box'; .* has: roots, boxes, idle"):
        canary_platform(table, "box")
    assert canary_platform(DEFAULT, "linux-amd64").name == EMBEDDED.name


def test_the_nearest_time_limit_counts() -> None:
    limits = """
[defaults.timeouts]
build = "90 min"
test = "2 h"
solve = "30 s"
[architectures.arm64.timeouts]
build = "3 h"
test = "4 h"
"""
    entry = 'arch = ["amd64", "arm64"]\ntimeouts = { test = "5 h" }'
    amd64, arm64 = read(limits, POOLS, ENTRY, entry).platforms
    merged = PhaseTimeouts(fetch=timedelta(seconds=7)).with_limits(arm64.timeouts)
    assert merged == PhaseTimeouts(
        fetch=timedelta(seconds=7),
        solve=timedelta(seconds=30),
        build=timedelta(hours=3),
        test=timedelta(hours=5),
    )
    assert amd64.timeouts.build == timedelta(minutes=90)


def test_a_platform_can_limit_every_phase_that_has_a_limit() -> None:
    assert set(PhaseLimits.model_fields) == set(PhaseTimeouts.model_fields)


def test_32_bits_are_built_under_linux32() -> None:
    amd64, i386 = read(POOLS, ENTRY, 'arch = ["amd64", "i386"]').platforms
    assert (amd64.personality, i386.personality) == (None, "linux32")
    assert i386.pool == "linux-amd64"


@pytest.mark.parametrize(
    ("file", "reported"),
    [
        ("", "no [[platforms]]: the file needs one at least"),
        ("x = [", "not TOML: Invalid value (at line 3, column 2)"),
        ("x = " + "[" * 9999, "not TOML: nested too deeply"),
        ("x = " + "9" * 5000, "not TOML: Exceeds the limit"),
        ("platform = []", "unknown key 'platform'; did you mean 'platforms'?"),
        (ENTRY + 'ocmal = "5.4"', "platforms entry 1 (debian-13): unknown key 'ocmal'; did you"),
        ('[[platforms]]\nocaml = "5.4"', "platforms entry 1: 'distribution' is missing"),
        (
            '[[platforms]]\ndistribution = "debian-13"\nocaml = 5.4',
            'write versions in quotes, as "5',
        ),
        (
            '[[platforms]]\ndistribution = "debian-13"\nocaml = "5"',
            "ocaml: invalid OCaml version '5'; write MAJOR.MINOR",
        ),
        ('[[platforms]]\ndistribution = "debian-13"\nocaml = []', "ocaml: the list is empty"),
        (
            '[[platforms]]\ndistribution = "-v"\nocaml = "5.4"',
            "distribution: invalid distribution '-v'; write",
        ),
        (ENTRY + 'opam = "2"', "opam: invalid opam version '2'; write MAJOR.MINOR, dev or system"),
        (ENTRY + 'arch = "x86_64"', "arch: no such architecture: 'x86_64'; there is: amd64, arm64"),
        (ENTRY + 'arch = "s390x"', "(debian-13): no pool builds for linux on s390x"),
        (
            ENTRY + 'pool = "linux-amd46"',
            "no such pool: 'linux-amd46'; did you mean 'linux-amd64'?",
        ),
        (ENTRY + 'pool = "linux-arm64"', "pool linux-arm64 does not build for linux on amd64"),
        (ENTRY + "[pools.two]\narch = 'amd64'", "ambiguous pool: linux-amd64 and two build for"),
        (ENTRY + 'variant = "a--b"', "variant: invalid variant of OCaml 'a--b'"),
        (
            ENTRY + 'runner = "docker"',
            "no such runner: 'docker'; there is: rootfs, container, native",
        ),
        (
            ENTRY + 'runner = "container"',
            "no pool with the container runner builds for linux on amd64; a pool has one runner",
        ),
        (ENTRY + BOXES, "the container runner needs an image"),
        (ENTRY + 'image = "x:1"', "the rootfs runner has no images; remove `image`"),
        (ENTRY + 'image = "--privileged"' + BOXES, "invalid image '--privileged'"),
        (ENTRY + 'image = "x:{arch}"' + BOXES, "invalid image 'x:{arch}'"),
        (ENTRY + 'runner = ["rootfs", "native"]', "no pool with the native runner builds"),
        (ENTRY + 'revdeps = "yes"', 'revdeps: write true, false, "all", "direct" or "none"'),
        (ENTRY + 'revdep_tests = "all"', "revdep_tests: write true or false"),
        (ENTRY + "distribution = 7", "not TOML: Cannot overwrite a value"),
        (ENTRY + "timeouts = { build = 90 }", "timeouts: invalid duration 90; write"),
        (
            ENTRY + 'timeouts = { build = "0 s" }',
            "timeouts.build: a time limit must be longer than",
        ),
        (
            ENTRY + 'timeouts = { build = "25 h" }',
            "timeouts.build: a time limit must be at most 24 h",
        ),
        (ENTRY + 'timeouts = { biuld = "1 h" }', "'timeouts.biuld'; did you mean 'build'?"),
        (
            ENTRY + ENTRY,
            "entry 2 (debian-13): duplicate platform debian-13-ocaml-5.4/amd64: platforms entry 1",
        ),
        (ENTRY + 'arch = ["amd64", "amd64"]', "debian-13-ocaml-5.4/amd64: it has it already"),
        (ENTRY + "[pools.Big]\narch = 'amd64'", "pools: invalid name of a pool 'Big'"),
        (ENTRY + "[pools.x]\nos = 'linux'", "pools.x: 'arch' is missing"),
        (ENTRY + "[architectures.sparc]", "architectures: no such architecture: 'sparc'; there is"),
        (ENTRY + "[defaults]\nopam = 'new'", "defaults: opam: invalid opam version 'new'"),
        ("platforms = 1", "platforms: write [[platforms]], with two brackets"),
        ("platforms = [1]", "platforms entry 1: this must be a table"),
        ('[[platforms]]\ndistribution = "a\\nb"\nocaml = "5.4"', "platforms entry 1 (a\\nb): "),
    ],
)
def test_one_clear_line_for_an_error(file: str, reported: str) -> None:
    # A top-level key would belong to the pool's table if it stood after it.
    parts = (file, POOLS) if not file.startswith("\n") else (POOLS, file)
    [line] = problems(*parts)
    assert reported in line


def test_every_error_is_reported_at_once() -> None:
    reported = problems(
        POOLS, ENTRY, 'opam = "2"\nrevdep = true', ENTRY, 'arch = "vax"', "[pools.y]"
    )
    assert [line.split(":")[0] for line in reported] == [
        "pools.y",
        "platforms entry 1 (debian-13)",
        "platforms entry 1 (debian-13)",
        "platforms entry 2 (debian-13)",
    ]


def test_a_broken_pool_does_not_bring_a_line_for_each_of_its_platforms() -> None:
    assert problems("[pools.linux-amd64]\narc = 'amd64'", ENTRY, 'pool = "linux-amd64"') == (
        "pools.linux-amd64: 'arch' is missing",
        "pools.linux-amd64: unknown key 'arc'; did you mean 'arch'?",
    )


WORDS = st.sampled_from(
    [
        "",
        "5.4",
        "debian-13",
        "amd64",
        "rootfs",
        "container",
        "1 h",
        "x:1",
        "\n",
        "\x1b[1m",
        "é" * 400,
    ]
)
SCALARS = st.sampled_from([None, True, 0, -1, 10**30, 5.4, float("inf")]) | WORDS
SCRAPS = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(st.sampled_from(["build", "arch", "timeouts", "p"]), SCALARS, max_size=2)
)
KEYS = ["distribution", "ocaml", "variant", "arch", "opam", "pool", "runner", "image", "timeouts"]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "defaults": st.dictionaries(st.sampled_from([*KEYS, "x"]), SCRAPS, max_size=3),
            "pools": st.dictionaries(st.sampled_from(["", "P", "p", "q"]), SCRAPS, max_size=2),
            "architectures": SCRAPS,
            "platforms": st.lists(
                st.dictionaries(st.sampled_from([*KEYS, "y"]), SCRAPS, max_size=5), max_size=3
            ),
        },
    )
)
def test_any_tables_are_read_or_refused_with_a_message(data: dict[str, Any]) -> None:
    def loads(_: str) -> dict[str, Any]:
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tomllib, "loads", loads)
        reported: tuple[str, ...] = ()
        platforms: tuple[Platform, ...] = ()
        try:
            platforms = parse_platforms("").platforms
        except InvalidPlatformFile as error:
            reported = error.problems
    assert bool(reported) != bool(platforms)
    assert all(len(line) <= 300 and line.isprintable() for line in reported)


@given(st.text() | st.text(alphabet='[]{}="\\\n#.p 15'))
def test_any_text_is_read_or_refused_with_a_message(text: str) -> None:
    with pytest.raises(InvalidPlatformFile):
        parse_platforms(text)


VERSIONS = st.lists(
    st.builds("{}.{}".format, st.integers(4, 5), st.integers(0, 20)),
    min_size=1,
    max_size=3,
    unique=True,
)


@given(
    distributions=st.lists(
        st.sampled_from(["debian-13", "debian-testing", "opensuse-15.6", "macos-homebrew", "a"]),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    ocaml=VERSIONS,
    opam=VERSIONS,
    arch=st.lists(st.sampled_from(sorted(ARCHITECTURES)), min_size=1, max_size=2, unique=True),
)
def test_what_is_written_is_what_is_read(
    distributions: list[str], ocaml: list[str], opam: list[str], arch: list[str]
) -> None:
    table = read(
        f"[pools.all]\narch = {json.dumps(sorted(ARCHITECTURES))}\n[[platforms]]",
        f"distribution = {json.dumps(distributions)}\nocaml = {json.dumps(ocaml)}",
        f"opam = {json.dumps(opam)}\narch = {json.dumps(arch)}",
    )
    read_back = [(one.arch, one.distribution, one.ocaml, one.opam) for one in table.platforms]
    assert read_back == [
        (a, d, version, o) for a in arch for d in distributions for version in ocaml for o in opam
    ]
    assert len(set(names(table.platforms))) == len(table.platforms)
    assert named(table.platforms, names(table.platforms)) == table.platforms
    # Platforms travel as JSON to workflows and workers.
    assert PlatformTable.model_validate_json(table.model_dump_json()) == table


def test_a_platform_has_an_image_just_when_it_is_a_container() -> None:
    given_ = {"distribution": "debian-13", "ocaml": "5.4", "arch": "amd64", "pool": "p"}
    with pytest.raises(ValidationError, match="has an image exactly if"):
        Platform.model_validate({**given_, "image": "x:1"})
    with pytest.raises(ValidationError, match="has an image exactly if"):
        Platform.model_validate({**given_, "runner": "container"})


@pytest.mark.parametrize(
    ("keys", "policy", "shown"),
    [
        ("", (False, False, True), []),
        ("revdeps = false", (False, False, True), []),
        ('revdeps = "none"', (False, False, True), []),
        ("revdeps = true", (True, False, True), ["revdeps"]),
        ('revdeps = "all"', (True, False, True), ["revdeps"]),
        ('revdeps = "direct"', (True, True, True), ["direct revdeps"]),
        ("revdeps = true\nrevdep_tests = false", (True, False, False), ["untested revdeps"]),
    ],
)
def test_which_revdeps_are_built_is_a_policy_of_the_platform(
    keys: str, policy: tuple[bool, bool, bool], shown: list[str]
) -> None:
    table = read(POOLS, ENTRY + keys)
    (platform,) = table.platforms
    found = (platform.revdeps, platform.only_direct_revdeps, platform.revdep_tests)
    assert (found, extras(platform)) == (policy, shown)
    column = "yes" if shown == ["revdeps"] else "".join(shown).removesuffix(" revdeps")
    assert f"| `{platform.name}` | system | linux-amd64 |  | {column} |" in page(table)


def test_the_default_matrix_is_that_of_opam_repo_ci() -> None:
    """Counted in `test/specs.expected` of opam-repo-ci (May 2026), and two of Debian's own."""
    assert len(DEFAULT.platforms) == 77
    on_debian = "debian-13-ocaml-{}/amd64".format
    bounded = [one for one in DEFAULT.platforms if one.lower_bounds]
    assert {one.name for one in bounded} == set(
        map(on_debian, ["4.08", "4.11", "4.14", "5.2", "5.3", "5.4", "5.5-beta1"])
    )
    with_revdeps = tuple(one for one in DEFAULT.platforms if one.revdeps)
    assert names(with_revdeps) == [on_debian("4.14"), on_debian("5.4")]
    # Of any depth, and all that have tests are tested.
    assert not any(one.only_direct_revdeps or not one.revdep_tests for one in with_revdeps)
    by_arch = {arch: len(filtered(DEFAULT.platforms, arches=[arch])) for arch in ARCHITECTURES}
    assert by_arch == {
        "amd64": 66,
        "arm64": 4,
        "ppc64le": 2,
        "riscv64": 2,
        "s390x": 2,
        "i386": 1,
        "arm32v7": 0,
    }
    assert {one.distribution for one in DEFAULT.platforms if one.runner is Runner.NATIVE} == {
        "macos-homebrew",
        "freebsd-15.0",
    }
    assert {one.opam for one in DEFAULT.platforms} >= {"dev", "2.1", "2.2", "2.3", "2.4", "2.5"}


def test_root_file_systems_have_four_suites_and_two_architectures() -> None:
    roots = [each for one in DEFAULT.platforms for each in one.choices if each.runner is ROOTFS]
    assert [(one.name, one.opam, one.compiler, one.personality) for one in roots] == [
        ("debian-13-ocaml-5.3/amd64", "system", "ocaml-system", None),
        ("debian-12-ocaml-4.13/amd64", "system", "ocaml-system", None),
        ("debian-13-ocaml-5.3/i386", "system", "ocaml-system", "linux32"),
        ("debian-testing-ocaml-5.4/amd64", "system", "ocaml-system", None),
        ("debian-unstable-ocaml-5.4/amd64", "system", "ocaml-system", None),
    ]
    assert [debian_root(one) for one in roots] == [
        DebianRoot(suite=suite, architecture=architecture)
        for suite, architecture in [
            ("trixie", "amd64"),
            ("bookworm", "amd64"),
            ("trixie", "i386"),
            ("testing", "amd64"),
            ("unstable", "amd64"),
        ]
    ]


@pytest.mark.parametrize(
    ("machine", "root"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("ppc64le", "ppc64el")]
)
def test_a_machine_makes_the_root_of_its_own_architecture(machine: str, root: str) -> None:
    assert embedded_root(machine) == DebianRoot(suite="trixie", architecture=root)


def test_every_architecture_has_a_machine() -> None:
    machines = ("x86_64", "aarch64", "ppc64le", "riscv64", "s390x")
    assert {arch for each in machines for arch in architectures(each)} == set(ARCHITECTURES)
    assert architectures("mips") == ()


def test_riscv64_has_twice_the_time() -> None:
    [slow, _] = filtered(DEFAULT.platforms, arches=["riscv64"])
    usual = PhaseTimeouts()
    limits = usual.with_limits(slow.timeouts).model_dump()
    assert limits == {phase: 2 * limit for phase, limit in usual.model_dump().items()}


def test_the_embedded_platform_is_part_of_the_matrix() -> None:
    assert embedded(DEFAULT) == EMBEDDED.model_copy(update={"lower_bounds": True})
    assert EMBEDDED.name == "debian-13-ocaml-5.3/amd64"


def test_a_matrix_without_a_platform_for_this_machine_is_reported() -> None:
    table = read(ENTRY, 'image = "x:1"', BOXES)
    with pytest.raises(UsageError, match="name others with --platform"):
        embedded(table)


def test_names_and_globs() -> None:
    found = named(
        DEFAULT.platforms, ["fedora-4*/amd64", "fedora-43-ocaml-5.4/amd64", EMBEDDED.name]
    )
    assert names(found) == [
        EMBEDDED.name,
        "fedora-42-ocaml-4.14/amd64",
        "fedora-42-ocaml-5.4/amd64",
        "fedora-43-ocaml-4.14/amd64",
        "fedora-43-ocaml-5.4/amd64",
    ]


@pytest.mark.parametrize(
    ("pattern", "reported"),
    [
        ("debian-12-ocaml-4.13", "did you mean debian-12-ocaml-4.13/amd64?"),
        ("debian-13-ocaml-53/amd64", "did you mean debian-13-ocaml-5.3/amd64 or"),
        ("plan9", "; `opam-ci platforms` lists all 77"),
        ("", "lists all 77"),
    ],
)
def test_an_unknown_name_brings_suggestions(pattern: str, reported: str) -> None:
    with pytest.raises(UsageError) as caught:
        named(DEFAULT.platforms, [pattern])
    assert reported in str(caught.value)


def test_the_page_names_every_platform_pool_and_key() -> None:
    text = page(DEFAULT)
    names_in_it = [
        *names(DEFAULT.platforms),
        *(pool.name for pool in DEFAULT.pools),
        "lower_bounds",
    ]
    assert not [word for word in names_in_it if f"`{word}`" not in text]


def test_the_example_of_the_page_is_right() -> None:
    _, _, rest = page(DEFAULT).partition("```toml\n")
    example = parse_platforms(rest.partition("```")[0])
    assert names(example.platforms) == [
        "debian-13-ocaml-4.14/amd64",
        "debian-13-ocaml-5.4/amd64",
        "fedora-43-ocaml-4.14/amd64",
        "fedora-43-ocaml-5.4/amd64",
        "debian-13-ocaml-5.4-flambda/arm64",
        "debian-13-ocaml-5.4-flambda/i386",
    ]
    limits = {one.arch: one.timeouts for one in example.platforms}
    assert limits["arm64"].overrides == {"build": timedelta(hours=3), "test": timedelta(hours=2)}
