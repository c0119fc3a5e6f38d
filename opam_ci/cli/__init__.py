"""The `opam-ci` command."""
