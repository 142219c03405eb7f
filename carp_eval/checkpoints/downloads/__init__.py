"""Having a released file: what a source is, the transfer that goes on where it stopped, pinned hashes."""
