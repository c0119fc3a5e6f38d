"""Git: processes, clones, trees, diffs, and the export of merged repositories."""
