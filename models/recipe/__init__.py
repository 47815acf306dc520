"""Trains the embedded emoji painter, its teacher and its judge from nothing."""
