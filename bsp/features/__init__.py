"""Snippet features: their store, the record of how they were made, and their exchange with other projects."""
