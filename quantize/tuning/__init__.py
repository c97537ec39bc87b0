"""After-tuning of what stays continuous once codes are chosen."""
