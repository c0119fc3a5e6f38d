"""Lint: changes that a maintainer would request before a package is published."""
