"""The opam language: files, versions, formulas."""
