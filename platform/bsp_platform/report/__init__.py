"""Tables, claims about their rows, costs, and the report of all tables."""
