"""Fuzz the parser and the analysis with atheris, which is not among our dependencies.

    pip install atheris
    python bench/fuzz_opam.py -max_total_time=120 -timeout=5 -max_len=4096 [SEEDS]

The arguments are libFuzzer's; SEEDS is a folder of opam files. It ends with a crash report
when an input raises what it may not, takes longer than the time limit, or breaks the law that
what is printed parses to the same.
"""

import sys

import atheris  # type: ignore[import-untyped]  # it has no types

with atheris.instrument_imports(include=["opam_ci.core.opam", "opam_ci.core.submission.analysis"]):
    from opam_ci.core.opam.errors import OpamSyntaxError
    from opam_ci.core.opam.file import OpamFile, parse
    from tests.support.fakes.one_file import significance
    from tests.support.fakes.opam_text import print_file

PATH = "packages/a/a.1/opam"


def parsed(data: bytes) -> OpamFile | None:
    try:
        return parse(data)
    except OpamSyntaxError:
        return None


def one_input(data: bytes) -> None:
    """Take the input for two versions of a file, split at its first form feed."""
    old, _, new = data.partition(b"\f")
    now = parsed(new)
    # All but files of a newer format.
    if now is not None and all(item.start >= 0 for item in now.items):
        assert parse(print_file(now.items).encode()).items == now.items
    for left, right in (
        (old, new),
        (b'opam-version: "2.0"\n' + old, b'opam-version: "2.0"\n' + new),
    ):
        result = significance(left, right, path=PATH)
        assert (result.failure is None) == (len(result.packages) == 1)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
