"""What an image must contain for its platform."""

import pytest

from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.platforms import contents
from opam_ci.core.platforms.model import Platform, Runner

DEFAULT = load_platforms(None)


def platform(ocaml: str, variant: str | None = None, opam: str = "dev") -> Platform:
    return Platform(
        distribution="debian-13",
        ocaml=ocaml,
        variant=variant,
        opam=opam,
        arch="amd64",
        pool="p",
        runner=Runner.CONTAINER,
        image="ocaml/opam:x",
        compiler="",
    )


def switch(one: Platform) -> set[str]:
    """The switch of its image, as `Opam.V2` of ocaml-version names its packages."""
    release, _, prerelease = one.ocaml.partition("~")
    version = f"{release}.0" + (f"~{prerelease}" if prerelease else "")
    if one.variant is None:
        return {f"ocaml-base-compiler.{version}", f"ocaml.{release}.0", "ocaml-options-vanilla.1"}
    return {
        f"ocaml-variants.{version}+options",
        f"ocaml-options-only-{one.variant}.1",
        f"ocaml.{release}.0",
    }


def _id(value: object) -> str:
    """A test's name must not depend on the order of a set."""
    if isinstance(value, Platform):
        return value.name
    return "+".join(sorted(value)) if isinstance(value, set) else str(value)


@pytest.mark.parametrize(
    "one", [one for one in DEFAULT.platforms if one.runner is Runner.CONTAINER], ids=_id
)
def test_every_platform_fits_its_own_image_and_no_other(one: Platform) -> None:
    assert contents.compiler_problem(one, switch(one)) is None
    fitting = {
        other.release
        for other in DEFAULT.platforms
        if contents.compiler_problem(one, switch(other)) is None
    }
    # An image may have more options than its platform names.
    assert all(
        other.startswith(one.ocaml.replace("~", "-")) and set(one.release.split("-")) <= set(words)
        for other in fitting
        for words in [other.split("-")]
    )


@pytest.mark.parametrize(
    ("wanted", "installed", "problem"),
    [
        (platform("5.5~beta1"), {"ocaml-base-compiler.5.5.0~beta1"}, None),
        (platform("5.5~beta1"), {"ocaml-variants.5.5.0~beta1+options"}, None),
        (platform("5.5"), {"ocaml-base-compiler.5.5.0~beta1", "ocaml.5.5.0"}, "not OCaml 5.5"),
        (platform("5.5~beta1"), {"ocaml-base-compiler.5.5.0~beta2"}, "5.5.0~beta2, not OCaml 5.5~"),
        (platform("5.4"), {"ocaml-base-compiler.5.4.1"}, None),
        (platform("5.3"), {"ocaml-system.5.3.0", "ocaml.5.3.0"}, None),
        (platform("4.1"), {"ocaml-base-compiler.4.14.2"}, "not OCaml 4.1"),
        (platform("5.4"), {"dune.5.4.0"}, "its switch has no OCaml, not OCaml 5.4"),
        (platform("4.14"), {"ocaml-variants.4.14.2+options", "ocaml-option-fp.1"}, None),
        (
            platform("4.14", "flambda-fp"),
            {"ocaml-variants.4.14.2+options", "ocaml-option-fp.1", "ocaml-option-flambda.1"},
            None,
        ),
        (
            platform("4.14", "flambda-fp"),
            {"ocaml-variants.4.14.2+options", "ocaml-option-flambda.1"},
            "its switch has ocaml-variants.4.14.2+options without flambda-fp",
        ),
        (platform("4.11", "flambda"), {"ocaml-variants.4.11.2+flambda"}, None),
        (platform("5.4", "afl"), {"ocaml-base-compiler.5.4.0"}, "without afl"),
    ],
    ids=_id,
)
def test_the_compiler_of_a_switch(
    wanted: Platform, installed: set[str], problem: str | None
) -> None:
    found = contents.compiler_problem(wanted, installed)
    assert found is None if problem is None else problem in str(found)


def test_the_opam_of_an_image() -> None:
    assert contents.opam_binary(platform("5.4", opam="2.4")) == "/usr/bin/opam-2.4"
    assert contents.opam_binary(platform("5.4")) == "/usr/bin/opam-dev"
    assert contents.opam_binary(platform("5.4", opam="system")) == "/usr/bin/opam"
    fitting = (("2.4", "2.4.1"), ("2.4", "2.4.0~rc1"), ("dev", "2.6.0~alpha1"), ("system", "2.1.2"))
    for wanted, version in fitting:
        assert contents.opam_problem(platform("5.4", opam=wanted), version) is None
    wrong = contents.opam_problem(platform("5.4", opam="2.4"), "2.40.1")
    assert wrong == "/usr/bin/opam-2.4 is opam 2.40.1, not 2.4"


def test_a_32_bit_image_needs_the_program_of_its_personality() -> None:
    assert "linux32" not in contents.programs(platform("5.4"))
    small = platform("5.4").model_copy(update={"personality": "linux32", "arch": "i386"})
    assert "linux32" in contents.programs(small)
