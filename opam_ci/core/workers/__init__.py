"""The health of workers: probes, quarantine, canaries."""
