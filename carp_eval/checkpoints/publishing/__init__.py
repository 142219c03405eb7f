"""A model's way to the Hub and back."""
