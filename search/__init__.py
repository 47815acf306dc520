"""Search over images: embeddings of queries, the index of images, and the process that keeps and asks it."""
