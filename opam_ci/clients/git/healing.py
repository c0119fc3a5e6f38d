"""What a killed git, a killed worker or a power cut leaves in a clone of ours, and its removal.

All of it works on files, under the clone's lock: nothing else writes to the clone then, so that
every lock file and every unfinished file in it is a leftover.
"""

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final


class Recovery(StrEnum):
    """How a clone was repaired; values of a metric's label."""

    LEFTOVERS = "leftovers"
    """Lock files and unfinished packs were removed."""
    REFS = "refs"
    """Empty or torn refs were removed; the next fetch makes those again that are needed."""
    ANEW = "anew"
    """It was moved away and cloned anew."""


#: Git's names of what it renames or removes in the end. No ref ends in `.lock`.
_LOCK_FILE: Final = re.compile(r".+\.lock")
_UNFINISHED: Final = re.compile(r"gc\.pid|packed-refs\.new")
#: Packs, indices, objects and folders of them; the last is of `git repack`.
_UNFINISHED_OBJECT: Final = re.compile(r"tmp_.+|\.tmp-.+")
_OBJECT_ID: Final = rb"[0-9a-f]{40}(?:[0-9a-f]{24})?"
_SYMBOLIC: Final = rb"ref: refs/[!-~]+\n?"
_REF: Final = re.compile(rb"(?:%b\n?|%b)" % (_OBJECT_ID, _SYMBOLIC))
_PACKED_REFS: Final = re.compile(
    rb"(?:#[ -~]*\n)?(?:%b refs/[^\0-\x20]+\n(?:\^%b\n)?)*" % (_OBJECT_ID, _OBJECT_ID)
)
_CONFIG_MARK: Final = b"repositoryformatversion"

LOCK: Final = "opam-ci.lock"
"""Name of the clone's lock file."""


def remove_leftovers(clone: Path) -> int:
    """Removes lock files and unfinished files; returns how many there were."""
    found = [path for path in _files(clone) if _LOCK_FILE.fullmatch(path.name)]
    found += [path for path in clone.iterdir() if _UNFINISHED.fullmatch(path.name)]
    found += [p for p in _files(clone / "objects") if _UNFINISHED_OBJECT.fullmatch(p.name)]
    found += _incomplete_packs(clone / "objects/pack")
    leftovers = set(found) - {clone / LOCK}
    for path in leftovers:
        path.unlink(missing_ok=True)
    folders = list((clone / "objects").glob("tmp_objdir-*"))
    for folder in folders:
        shutil.rmtree(folder)
    return len(leftovers) + len(folders)


def remove_torn_refs(clone: Path) -> int:
    """Removes refs that are no refs, such as empty ones; returns how many files there were."""
    torn = [path for path in _files(clone / "refs") if not _REF.fullmatch(path.read_bytes())]
    packed = clone / "packed-refs"
    if packed.exists() and not _PACKED_REFS.fullmatch(packed.read_bytes()):
        torn.append(packed)
    for path in torn:
        path.unlink()
    return len(torn)


def remove_torn_layout(clone: Path) -> bool:
    """Removes a torn `HEAD` and `config`; returns whether `git init` must make anything."""
    head, config = clone / "HEAD", clone / "config"
    if head.exists() and not _REF.fullmatch(head.read_bytes()):
        head.unlink()
    if config.exists():
        text = config.read_bytes()
        if _CONFIG_MARK not in text or b"\0" in text:
            config.unlink()
    wanted = (head, config, clone / "objects", clone / "refs")
    return not all(path.exists() for path in wanted)


def move_away(clone: Path) -> None:
    """Moves all of a clone but its lock to `CLONE.damaged`, in place of what was there."""
    damaged = damaged_copy(clone)
    if damaged.exists():
        shutil.rmtree(damaged)
    damaged.mkdir()
    for path in clone.iterdir():
        if path.name != LOCK:
            path.rename(damaged / path.name)


def damaged_copy(clone: Path) -> Path:
    """Returns where a damaged clone is kept for its operator."""
    return clone.with_name(f"{clone.name}.damaged")


def _files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        yield from (Path(parent, name) for name in names)


def _incomplete_packs(packs: Path) -> list[Path]:
    """Returns the files of packs without index or content, and the marks of running fetches."""
    by_pack: defaultdict[str, list[Path]] = defaultdict(list)
    for path in packs.glob("pack-*"):
        by_pack[path.stem].append(path)
    return [
        path
        for files in by_pack.values()
        for path in files
        if path.suffix == ".keep" or not {".pack", ".idx"} <= {file.suffix for file in files}
    ]
