"""The places that models are opened from."""
