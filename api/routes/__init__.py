"""The wire contract, one module per kind of thing."""
