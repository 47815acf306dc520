"""Classifiers of pictures: heads on their embeddings, and models of their pixels."""
