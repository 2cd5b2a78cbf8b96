"""Sparsities chosen for a latency: what each layer costs, what the network loses, and a search over both."""
