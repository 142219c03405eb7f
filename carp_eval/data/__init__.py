"""Data sets by name, their images, and what is done to an image before a model sees it."""
