"""What goes to MLflow, and how."""
