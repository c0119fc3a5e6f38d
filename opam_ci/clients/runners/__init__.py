"""Runners: how one build job is executed in isolation."""
