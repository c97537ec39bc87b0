"""A type for every tensor within a size or a loss."""
