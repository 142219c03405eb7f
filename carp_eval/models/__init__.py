"""Trunks, heads, and what the rest needs to know of a loaded model."""
