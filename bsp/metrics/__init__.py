"""Metrics of the published protocols, and remarks on probable mistakes in scored files."""
