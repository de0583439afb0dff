"""Encoders: clips in, features out, and published weights for them."""
