"""One module per kind of protocol, and the one function that ties card, model and data."""
