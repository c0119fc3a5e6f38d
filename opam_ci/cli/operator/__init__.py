"""Commands for operators of the CI."""
