"""Telling how a file of others is laid out."""
