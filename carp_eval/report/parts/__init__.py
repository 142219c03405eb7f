"""The parts of a report: each takes what was found and says what its section of the page shows."""
