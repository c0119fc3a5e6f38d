"""The packages of a canary."""

import re

import pytest

from opam_ci.core.platforms.model import EMBEDDED, Platform, Runner
from opam_ci.core.workers import canary

IMAGE = EMBEDDED.model_copy(update={"runner": Runner.CONTAINER, "image": "localhost/x:1"})


@pytest.mark.parametrize("compiler", ["ocaml-system", "ocaml-variants.5.3.0+options", ""])
def test_its_repository_is_one_whatever_provides_the_compiler(compiler: str) -> None:
    platform = Platform.model_validate(IMAGE.model_copy(update={"compiler": compiler}).model_dump())
    files = [*canary.base_files(platform), *canary.submission_files(platform)]
    packages = sorted(path for path in files if path != "repo")
    assert len(packages) == 3
    for path in packages:
        assert re.fullmatch(r"packages/([a-z-]+)/\1\.[0-9][^/]*/opam", path), path
