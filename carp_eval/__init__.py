"""Train CARP, bank the features of any vision model once, and score them by named, reproducible protocols."""
