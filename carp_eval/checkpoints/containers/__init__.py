"""What a file of weights is in, read without running any of it."""
