"""Compiled dependencies that later jobs may reuse."""
