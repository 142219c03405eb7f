"""A trunk written for other libraries: a module for each, and the one function that writes, reads back and compares."""
