"""The JSON API of an opam-ci server: its messages, and a client of it."""
