"""The proof that `l1jax` and `l1torch` are the same, and right."""
