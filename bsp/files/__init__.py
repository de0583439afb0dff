"""Readers of untrusted files with bounded resources: text, NumPy, HDF5, pickles and weights."""
