"""Exact search of a bank: in memory, or from its files in any memory."""
