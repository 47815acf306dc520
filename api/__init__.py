"""The door: HTTP in, jobs out. Carries no torch."""
