"""The job index: what was tested, with which outcome, in SQL."""

from opam_ci.clients.index.filters import CURRENT, AttemptFilter, JobFilter, RevisionFilter
from opam_ci.clients.index.incidents import IncidentFilter
from opam_ci.clients.index.index import Index
from opam_ci.clients.index.paging import Page, Place

__all__ = [
    "CURRENT",
    "AttemptFilter",
    "IncidentFilter",
    "Index",
    "JobFilter",
    "Page",
    "Place",
    "RevisionFilter",
]
