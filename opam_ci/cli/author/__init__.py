"""Commands for authors of packages."""
