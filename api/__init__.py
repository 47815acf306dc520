"""The HTTP API: takes requests, and makes jobs of them. Does not import torch."""
