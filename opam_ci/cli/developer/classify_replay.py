"""`opam-ci classify --replay`: the verdicts that the current rules give stored attempts."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from opam_ci.app.settings import Settings
from opam_ci.cli.output.json_lines import print_line
from opam_ci.cli.output.tables import print_text
from opam_ci.cli.selection.operate import moment, opened_index
from opam_ci.clients.index.filters import AttemptFilter
from opam_ci.clients.index.index import Index
from opam_ci.clients.index.paging import Place
from opam_ci.clients.judge import judged
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.classify.replay import Replay, replay, rule_of
from opam_ci.core.jobs.outcome import Cause, Errored, Failed, Passed, Skipped, label
from opam_ci.core.jobs.records import AttemptRecord
from opam_ci.core.jobs.summary import Standing

_PAGE = 500


def attempt_filter(
    *, outcome: Standing | None, cause: Cause | None, since: str | None
) -> AttemptFilter:
    """Returns the filter that the command's options describe.

    Raises:
        UsageError: `since` is not a time.
    """
    return AttemptFilter(
        standing=outcome,
        cause=cause,
        since=None if since is None else moment(since, datetime.now(UTC)),
    )


def replay_attempts(wanted: AttemptFilter, *, platform: str | None, as_json: bool) -> int:
    """Classifies stored attempts again and prints changed verdicts, then counts.

    Attempts without facts (the worker was lost, or they are older than the storage of facts)
    and those without a stored log are only counted.

    Returns:
        How many verdicts change.

    Raises:
        UsageError: There is no index.
        InfrastructureError: The index or the store cannot be read.
    """
    settings = Settings()
    store = ArtifactStore.open(settings.store_url)
    with opened_index(settings) as index:
        counts = asyncio.run(
            _replay_all(store, _attempts(index, wanted, platform), as_json=as_json)
        )
    _print_counts(counts, as_json=as_json)
    return counts["flips"]


def _attempts(index: Index, wanted: AttemptFilter, platform: str | None) -> Iterator[AttemptRecord]:
    """Yields attempts that have ended, newest first."""
    after: str | None = None
    while True:
        items, after = index.attempts(wanted, place=Place(limit=_PAGE, after=after))
        # Filtered here: the index has no column for the platform, and reading logs costs more.
        yield from (
            each
            for each in items
            if each.outcome is not None and platform in {None, each.job.platform}
        )
        if after is None:
            return


async def _replay_all(
    store: ArtifactStore, attempts: Iterator[AttemptRecord], *, as_json: bool
) -> Counter[str]:
    counts: Counter[str] = Counter(flips=0)
    for attempt in attempts:
        counts["attempts"] += 1
        kept = await judged.load(store, attempt.log_key) if attempt.log_key else None
        if kept is None or attempt.log_key is None:
            counts["without_facts"] += 1
            continue
        texts = await judged.phase_texts(store, attempt.log_key, kept.facts)
        if kept.facts.phases and not any(texts.values()):
            counts["without_log"] += 1
            continue
        counts["judged"] += 1
        found = replay(kept, texts)
        counts["other_rule"] += found.rules_differ and not found.flips
        if found.flips:
            counts["flips"] += 1
            counts[f"{label(found.before)} -> {label(found.now)}"] += 1
            _print_flip(attempt, found, as_json=as_json)
    return counts


def _print_flip(attempt: AttemptRecord, found: Replay, *, as_json: bool) -> None:
    now = found.now
    lines = now.evidence.lines if isinstance(now, Passed | Failed | Skipped | Errored) else ()
    if as_json:
        flip: dict[str, Any] = {
            "event": "flip",
            "repository": attempt.revision.repository,
            "target": attempt.revision.target,
            "head": attempt.revision.head,
            "job": attempt.job.id,
            "round": attempt.round,
            "attempt": attempt.number,
            "log": attempt.log_key,
            "before": found.before.model_dump(mode="json"),
            "now": now.model_dump(mode="json"),
        }
        print_line(flip)
        return
    print_text(
        f"{attempt.revision.repository} {attempt.revision.target} {attempt.job.id} "
        f"{attempt.round}-{attempt.number}: {label(found.before)} by {rule_of(found.before)} "
        f"-> {label(now)} by {rule_of(now)}"
    )
    for line in lines[:3]:
        print_text(f"    {line.text}")


def _print_counts(counts: Counter[str], *, as_json: bool) -> None:
    kinds = {name: count for name, count in counts.items() if " -> " in name}
    numbers = {
        name: counts[name]
        for name in ("attempts", "judged", "flips", "other_rule", "without_facts", "without_log")
    }
    if as_json:
        print_line({"event": "summary", **numbers, "kinds": kinds})
        return
    for name, count in sorted(kinds.items()):
        sys.stdout.write(f"{count} x {name}\n")
    sys.stdout.write(
        f"{numbers['attempts']} attempts, {numbers['judged']} classified again: {numbers['flips']} "
        f"verdicts change, {numbers['other_rule']} are the same by another rule; "
        f"{numbers['without_facts']} without facts, {numbers['without_log']} without a log\n"
    )
