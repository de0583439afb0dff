"""Model folders: all that a new video needs, to write, load and use."""
