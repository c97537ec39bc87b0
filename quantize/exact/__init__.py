"""What has one right answer, compared with the original exactly."""
