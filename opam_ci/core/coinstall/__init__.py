"""Packages that depend on a package and can be installed together with it, as in `opam list`.

`universe` parses opam's dump of all packages, `post` the dependencies that the dump lacks,
`dependents` finds the candidates, `worlds` decides about them with a SAT solver, `answer` runs
the three queries.
"""
