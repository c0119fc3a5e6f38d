"""Commands for developers of the CI."""
