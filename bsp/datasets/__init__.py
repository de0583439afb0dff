"""Published data sets: one file per layout of annotations or results."""
