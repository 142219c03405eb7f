"""A protocol, a pretraining method and a data set for carp-eval."""
