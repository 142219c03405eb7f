"""How data sets lie on disk as their makers pack them: a reader for each layout."""
