"""Boundary-sensitive pre-training for temporal localisation (BSP): the method, without Ray or MLflow."""
