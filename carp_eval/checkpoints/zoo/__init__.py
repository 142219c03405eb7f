"""Models of others on this machine."""
