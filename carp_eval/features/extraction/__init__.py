"""From images to a bank on disk, by any number of processes."""
