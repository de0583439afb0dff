"""Localisation heads: features in, segments, moments or boundaries out."""
