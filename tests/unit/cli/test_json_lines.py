"""Lines of a batch: each has its place, and a bad one harms no other."""

import gzip
from pathlib import Path

from pydantic import BaseModel

from opam_ci.cli.output.json_lines import read_lines


class Line(BaseModel):
    a: int = 0


def test_a_line_that_is_too_long_is_one_invalid_line(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * (3 << 20) + b'"}\n\n{"c": 3}')
    lines = list(read_lines(str(file), Line, limit=1 << 20))
    assert [line.record for line in lines] == [{"a": 1}, {}, {"c": 3}]
    assert [line.error for line in lines] == [None, f"{file}:2: longer than 1 MiB", None]
    assert lines[2].place == f"{file}:4"


def test_gzip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(gzip.compress(b'{"a": 1}\n[]\n' + b"[" * 100_000 + b"\n", mtime=0))
    first, second, third = read_lines(str(file), Line)
    assert (first.record, first.error) == ({"a": 1}, None)
    assert second.error == f"{file}:2: not a JSON object"
    assert third.error is not None
    assert third.error.startswith(f"{file}:3: not JSON: ")
