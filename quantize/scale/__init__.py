"""Runs on several machines: the pieces of a walk as tasks of a Ray cluster."""
