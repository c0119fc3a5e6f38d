"""Platforms: what there is to build on, and how a file describes it."""
