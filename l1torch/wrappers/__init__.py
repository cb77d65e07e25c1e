"""A torch optimizer around another, and how it applies a prox to parameters in place.

It knows none of the public optimizers that are built on it. Start with `delegating`.
"""
