"""Synthetic boundary clips: what to make (plans), and making the pixels (Section 3.2 of the paper)."""
