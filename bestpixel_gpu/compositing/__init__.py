"""The way of the data, from a request to a composite."""
