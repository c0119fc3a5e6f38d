"""Logs of attempts: written in segments as they come, readable from anywhere meanwhile."""

from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.writer import LogLimits, LogWriter

__all__ = ("LogLimits", "LogReader", "LogWriter")
