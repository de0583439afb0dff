"""Pantomime, the embedded world: videos of stick figures rendered from a seed, in published layouts."""
