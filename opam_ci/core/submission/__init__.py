"""What a pull request changes, and whether it may be built."""
