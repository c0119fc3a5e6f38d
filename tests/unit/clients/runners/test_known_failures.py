"""Dependencies that failed on a machine: remembered, and only if that is sure."""

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.clients.runners.cache.failures import FailureStore
from opam_ci.core.jobs.known_failure import FailedAlone
from opam_ci.core.jobs.outcome import Cause, Errored, Outcome, SeenIn
from opam_ci.core.reuse.settled import MAX_AGE
from tests.support.samples.known_failures import KEY, failed, known_failure, seen

NOW = datetime.now(UTC)
OUTPUT = "<><> Processing\n# Error: it is broken\n# exit-code 3\n"
FIRST, SECOND = seen("foo.1", at=NOW), seen("other.1", at=NOW)


@pytest.fixture
def store(tmp_path: Path) -> FailureStore:
    return FailureStore(tmp_path / "failures", most=3)


def alone(
    package: str = "bar.2", *, key: str = KEY, output: str = OUTPUT, beside: tuple[str, ...] = ()
) -> FailedAlone:
    return FailedAlone(package=package, key=key, beside=beside, output=output)


def attempts(store: FailureStore, key: str = KEY) -> tuple[SeenIn, ...]:
    known = store.find(key)
    return () if known is None else known.seen


async def test_what_failed_alike_is_remembered(store: FailureStore) -> None:
    assert store.find(KEY) is None
    await store.learn([alone(beside=("x.1",))], failed(), FIRST)
    assert attempts(store) == (FIRST,)
    await store.learn([alone(beside=("y.1",))], failed("# Error: it is broken"), SECOND)
    known = store.find(KEY)
    assert known is not None
    assert (known.seen, known.beside) == ((SECOND, FIRST), ("x.1", "y.1"))


async def test_another_failure_takes_the_place_of_the_first(store: FailureStore) -> None:
    await store.learn([alone()], failed(), FIRST)
    await store.learn([alone(output="# Error: other")], failed("# Error: other"), SECOND)
    assert attempts(store) == (SECOND,)


@pytest.mark.parametrize(
    ("dependency", "outcome"),
    [
        (alone("other.1"), failed()),
        # In the job it printed what it did not print alone.
        (alone(output="# Error: another one\n"), failed()),
        (alone(), failed().model_copy(update={"blame": None})),
        (alone(), Errored(cause=Cause.OUT_OF_MEMORY, evidence=failed().evidence)),
        (
            alone(),
            failed().model_copy(
                update={"evidence": failed().evidence.model_copy(update={"lines": ()})}
            ),
        ),
        (
            alone(),
            failed().model_copy(
                update={
                    "evidence": failed().evidence.model_copy(
                        update={"rule": "dependency-known-to-fail"}
                    )
                }
            ),
        ),
    ],
)
async def test_nothing_else_is(
    store: FailureStore, dependency: FailedAlone, outcome: Outcome
) -> None:
    await store.learn([dependency], outcome, FIRST)
    assert store.clear() == 0


async def test_a_success_ends_it(store: FailureStore) -> None:
    await store.learn([alone()], failed(), FIRST)
    store.forget(KEY)
    store.forget(KEY)
    assert store.find(KEY) is None


@pytest.mark.parametrize(
    "damage", ["torn", "empty", "another", "lying", "old", "link", "directory", "large"]
)
async def test_what_is_damaged_or_old_is_not_known(
    store: FailureStore, tmp_path: Path, damage: str
) -> None:
    await store.learn([alone()], failed(), FIRST)
    path = tmp_path / "failures" / KEY
    known = known_failure(FIRST, SECOND)
    match damage:
        case "torn":
            path.write_bytes(path.read_bytes()[:-5])
        case "empty":
            path.write_bytes(b"")
        case "another":
            path.write_text(known.model_copy(update={"key": "b" * 64}).model_dump_json())
        case "lying":
            path.write_text(known.model_copy(update={"package": "good.1"}).model_dump_json())
        case "old":
            old = seen(at=NOW - MAX_AGE - timedelta(hours=1))
            path.write_text(known_failure(old, old).model_dump_json())
        case "link":
            (tmp_path / "elsewhere").write_text(known.model_dump_json())
            path.unlink()
            path.symlink_to(tmp_path / "elsewhere")
        case "directory":
            path.unlink()
            path.mkdir()
        case "large":
            path.write_text(known.model_dump_json() + " " * (1 << 20))
    assert store.find(KEY) is None
    # Nor does it stop the next one from being remembered.
    await store.learn([alone()], failed(), SECOND)
    assert attempts(store) == (() if damage == "directory" else (SECOND,))


async def test_a_full_disk_costs_what_was_to_be_remembered_alone(
    store: FailureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.learn([alone()], failed(), FIRST)

    def full(*_words: object, **_more: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        await store.learn([alone()], failed(), SECOND)
    assert attempts(store) == (FIRST,)
    (tmp_path / "failures" / KEY).unlink()
    (tmp_path / "failures").rmdir()
    (tmp_path / "failures").write_text("not a directory")
    assert store.find(KEY) is None
    store.forget(KEY)
    await store.learn([alone()], failed(), FIRST)


async def test_those_used_longest_ago_are_removed(store: FailureStore, tmp_path: Path) -> None:
    keys = [letter * 64 for letter in "abcd"]
    for number, key in enumerate(keys[:3]):
        await store.learn([alone(key=key)], failed(), FIRST)
        os.utime(tmp_path / "failures" / key, (number, number))
    assert attempts(store, keys[0])  # used
    await store.learn([alone(key=keys[3])], failed(), FIRST)
    assert [bool(attempts(store, key)) for key in keys] == [True, False, True, True]
    assert len(list((tmp_path / "failures").iterdir())) == 3
    assert store.clear() == 3
