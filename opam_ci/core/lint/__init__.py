"""Lint: what a maintainer would ask to change before a package is published."""
