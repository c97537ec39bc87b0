"""What a report measures and how it looks."""
