"""How sure a difference between two rows is: metrics on resampled videos, and the paired analysis over seeds."""
