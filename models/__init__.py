"""The embedded emoji models and the recipe that trains them."""
