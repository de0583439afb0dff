"""Ray itself: started for its user alone or joined, and what the machine allows."""
