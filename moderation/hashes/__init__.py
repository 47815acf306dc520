"""Lists of known images: by the digests of their files, by perceptual hashes, and by embeddings."""
