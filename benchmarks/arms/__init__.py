"""Platforms of two revisions side by side: a checkout with its environment, its processes, and what goes over their wires."""
