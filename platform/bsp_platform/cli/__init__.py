"""The bsp command: one file per group of commands."""
