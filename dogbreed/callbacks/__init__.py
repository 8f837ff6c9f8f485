"""What a fit writes down: who it is, how far it came, what it scored."""
