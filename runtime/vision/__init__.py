"""What a model that reads images does before its language model: pixels to embeddings."""
