"""The rules, in the order in which they decide.

1. Words that prove the machine broken: no package writes them, or later errors follow from
   them (full disk, killed processes, lost workers, sandboxes).
2. Strong proof against the package: compilers, linkers, tests.
3. What the solver proved.
4. opam's and git's own troubles, sources, mirrors and the network.
5. Unknown system packages, after all reasons for which the lists may be empty.
6. Weaker proof against the package, then weak words.
"""

from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules.disk import DISK, MEMORY
from opam_ci.core.classify.rules.generic import GENERIC
from opam_ci.core.classify.rules.mirrors import MIRRORS
from opam_ci.core.classify.rules.network import NETWORK
from opam_ci.core.classify.rules.opam import OPAM
from opam_ci.core.classify.rules.proofs import PROOFS
from opam_ci.core.classify.rules.sandbox import SANDBOX
from opam_ci.core.classify.rules.skips import DEPEXTS, SKIPS
from opam_ci.core.classify.rules.solver import SOLVER
from opam_ci.core.classify.rules.sources import SOURCES
from opam_ci.core.classify.rules.weak_proofs import WEAK_PROOFS
from opam_ci.core.classify.rules.worker import WORKER

_VAGUE = {"source-unclear", "many-sources", "many-sources-listed", "download-command"}
_DETAILED_SOURCES = tuple(rule for rule in SOURCES if rule.id not in _VAGUE)
_VAGUE_SOURCES = tuple(rule for rule in SOURCES if rule not in _DETAILED_SOURCES)

RULES: tuple[Rule, ...] = (
    *DISK,
    *MEMORY,
    *SANDBOX,
    *WORKER,
    *PROOFS,
    *SKIPS,
    *SOLVER,
    *OPAM,
    *NETWORK,
    *MIRRORS,
    *_DETAILED_SOURCES,
    *DEPEXTS,
    *WEAK_PROOFS,
    *_VAGUE_SOURCES,
    *GENERIC,
)
"""All rules, most decisive first."""

BY_ID = {rule.id: rule for rule in RULES}
"""The same, by id."""
