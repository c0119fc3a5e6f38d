"""Long lists that travel packed, and texts that only look like it."""

import base64
import json
import zlib
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from opam_ci.core import packed
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence
from opam_ci.core.jobs.summary import JobState, JobStatus, Rows, Summary
from opam_ci.core.model import Frozen
from opam_ci.core.packed import UNPACKED, Packed

ROWS: TypeAdapter[tuple[JobStatus, ...]] = TypeAdapter(Rows)
FAULT = Errored(cause=Cause.DNS, evidence=Evidence(rule="dns", detail="no such host \N{SNOWMAN}"))


class Words(Frozen):
    words: Annotated[tuple[str, ...], Packed(above=3)] = ()


def rows(count: int) -> tuple[JobStatus, ...]:
    return tuple(
        JobStatus(
            job=Job(platform="debian-13/amd64", package=f"p{number}.1", kind=JobKind.BUILD),
            state=JobState.DECIDED,
            attempt=1,
            outcome=FAULT,
        )
        for number in range(count)
    )


def text_of(values: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(values).encode())).decode()


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=9))
def test_what_is_packed_comes_back(words: list[str]) -> None:
    given_words = Words(words=tuple(words))
    sent = given_words.model_dump_json()
    assert Words.model_validate_json(sent) == given_words
    assert isinstance(json.loads(sent)["words"], list) == (len(words) <= 3)
    assert given_words.model_dump() == {"words": tuple(words)}


def test_rows_are_a_tenth_of_their_size() -> None:
    sent = rows(200)
    text = ROWS.dump_json(sent)
    assert ROWS.validate_json(text) == sent
    plain = sum(len(row.model_dump_json()) for row in sent)
    assert len(text) < plain / 10


def test_people_can_read_what_is_short() -> None:
    summary = Summary(pull_request="o/r#1", head="a" * 40, base="b" * 40, jobs=rows(300))
    assert len(json.loads(summary.model_dump_json())["jobs"]) == 300
    # What our own commands print is never packed.
    many = summary.model_copy(update={"jobs": rows(301)})
    assert isinstance(json.loads(many.model_dump_json())["jobs"], str)
    assert len(json.loads(many.model_dump_json(context=UNPACKED))["jobs"]) == 301
    # What people send by hand is a list of any length.
    assert Words.model_validate_json(json.dumps({"words": list("abcdefgh")})).words[-1] == "h"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends early"),
        ("no base64!", "not a packed list"),
        ("é", "only ASCII"),
        (base64.b64encode(b"no zlib").decode(), "not a packed list"),
        (text_of(["a", "b"])[:-8], "ends early"),
        (text_of([1, 2]), "valid string"),
        (text_of("words"), "valid array"),
        (base64.b64encode(zlib.compress(b'["a"')).decode(), "Invalid JSON"),
    ],
)
def test_invalid_packed_text_is_rejected(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Words.model_validate_json(json.dumps({"words": text}))


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_BYTES", 10_000)
    fits = ["a" * 9_000]
    assert Words.model_validate({"words": text_of(fits)}).words == tuple(fits)
    with pytest.raises(ValidationError, match="over 10000 bytes"):
        Words.model_validate({"words": text_of(["a" * 1_000_000])})
