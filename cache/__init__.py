"""State in Redis: the prompt-hash key, results, job records with single-flight, the model directory; and blobs."""
