"""Phases of an attempt: their commands, output and facts."""
