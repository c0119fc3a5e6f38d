"""Decides the effect of a head on other packages, with what the store has of packages."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from opam_ci.clients.git.exported import run_task
from opam_ci.clients.git.head_process import DESCRIPTIONS, FindEffect, FoundEffect
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.core.coinstall.described import DESCRIPTION_VERSION
from opam_ci.core.submission.effect import Effect

_KEY: Final = f"repositories/descriptions-{DESCRIPTION_VERSION}.json"


async def find_effect(
    store: ArtifactStore, clone: Path, base: str, head: str, ocaml: tuple[str, ...]
) -> Effect:
    """Decides the effect of a head.

    Args:
        store: Has the descriptions of packages, which take ten seconds to make.
        clone: Contains both commits.
        base: Commit into which the head is merged.
        head: The head.
        ocaml: Releases of OCaml.

    Raises:
        UsageError: The head does not merge, or the repository is larger than any real one.
        InfrastructureError: Git or the store fails, or a limit of time or memory was reached.
        asyncio.CancelledError: The caller was cancelled; no process works for it any more.
    """
    with tempfile.TemporaryDirectory(prefix="opam-ci-effect-") as name:
        directory = Path(name)
        with suppress(MissingKeyError):
            (directory / DESCRIPTIONS).write_bytes(await store.get(_KEY))
        done = await run_task(
            FindEffect(clone=clone, directory=directory, base=base, head=head, ocaml=ocaml)
        )
        assert isinstance(done, FoundEffect)  # noqa: S101 - for mypy: the task's result
        if done.descriptions_changed:
            await store.put(_KEY, directory / DESCRIPTIONS)
        return done.effect
