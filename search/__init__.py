"""Finds images by words and by similarity: the index of pictures, and how its answers are fused."""
