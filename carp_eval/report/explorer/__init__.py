"""The explorer: a page, served on this machine, that shows what a bank holds near to any image."""
