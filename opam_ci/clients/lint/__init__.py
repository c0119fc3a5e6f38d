"""Lint by the opam of a root that the CI made."""
