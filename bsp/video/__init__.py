"""Videos: exact frames and their times, damage and limits, small prepared copies that are read fast."""
