"""What the stores are built on: connections to Redis, and the blob stores (a directory, S3)."""
