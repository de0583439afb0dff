"""Pre-training on one's own videos, outside of a table: settings, measurements, training, model folder."""
