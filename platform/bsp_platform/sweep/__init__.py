"""The rows of a table on Ray Tune: run, shown while they run, and tracked."""
