"""The job index: testings, jobs, attempts and incidents, in SQL."""

from opam_ci.clients.index.filters import CURRENT, AttemptFilter, JobFilter, RevisionFilter
from opam_ci.clients.index.incidents import IncidentFilter
from opam_ci.clients.index.index import Index
from opam_ci.clients.index.listings import Listings
from opam_ci.clients.index.paging import Page, Place, all_items

__all__ = [
    "CURRENT",
    "AttemptFilter",
    "IncidentFilter",
    "Index",
    "JobFilter",
    "Listings",
    "Page",
    "Place",
    "RevisionFilter",
    "all_items",
]
