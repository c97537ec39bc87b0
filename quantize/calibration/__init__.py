"""What the text says of the model: one walk over the layers, and what observes it."""
