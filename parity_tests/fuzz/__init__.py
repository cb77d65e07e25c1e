"""Odd values in every argument of the public surface."""
