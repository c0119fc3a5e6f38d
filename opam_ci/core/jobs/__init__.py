"""Jobs: what is to run, how it ended, and how all of it is counted."""
