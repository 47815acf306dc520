"""What the stores stand on: connections to Redis, and the blob stores (a directory, S3)."""
