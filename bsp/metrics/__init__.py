"""Metrics of the published protocols, and remarks on what is odd about files to be scored."""
