"""What pages show: models, the filter of jobs in a URL, causes, and changes since a head."""
