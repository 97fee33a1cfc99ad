"""One HTML page of a run, or of several beside one another; it opens without a network."""
