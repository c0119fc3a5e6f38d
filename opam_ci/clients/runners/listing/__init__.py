"""Finding reverse dependencies that can be installed together."""
