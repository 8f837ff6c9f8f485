"""The network, its training and its metrics."""
