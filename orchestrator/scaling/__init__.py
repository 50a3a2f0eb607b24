"""How many machines there should be, and making them."""
