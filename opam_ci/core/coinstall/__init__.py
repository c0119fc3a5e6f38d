"""What depends on a package and can be installed together with it, as `opam list` answers.

`universe` reads what opam says about all packages, `post` what that leaves out, `dependents`
finds the candidates, `worlds` decides about them with a SAT solver, `answer` puts it together.
"""
