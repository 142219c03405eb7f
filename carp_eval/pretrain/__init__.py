"""Training a model without labels: partition, loss, teacher, loop."""
