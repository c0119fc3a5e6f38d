"""The installation on this machine: server, workers, ports."""
