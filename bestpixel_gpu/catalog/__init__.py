"""What there is: archives, search, items as scenes, tokens."""
