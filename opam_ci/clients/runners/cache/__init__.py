"""What a machine keeps for later jobs: compiled dependencies, archives of sources."""
