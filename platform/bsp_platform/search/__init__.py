"""Searches over boundary settings on Ray Tune."""
