"""The AutoScaler: makes and ends machines with the load, and keeps records of them."""
