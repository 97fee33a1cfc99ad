"""What N GPUs will give: a written model of a step's time, of memory and of what feeds them."""
