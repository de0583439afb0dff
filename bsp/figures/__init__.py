"""Drawings of Figures 2, 4 and 5, and of hyperparameter searches."""
