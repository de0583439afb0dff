"""Synthetic boundary clips: what to make (plans), and how pixels come of it (Section 3.2 of the paper)."""
