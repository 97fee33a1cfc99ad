"""Changes to whole batches of images; the random numbers are arguments."""
