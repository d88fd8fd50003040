"""Scalars per particle: statistics, distances, losses and the selection they lead to."""
