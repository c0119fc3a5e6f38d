"""Judging attempts in a process of its own, with a time limit."""
