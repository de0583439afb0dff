"""What is to be computed: rows, recipes, profiles and sources; nothing here starts work."""
