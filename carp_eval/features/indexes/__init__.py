"""Approximate nearest neighbours: indexes of a bank, made, tuned, searched and served in parts."""
