"""Tests of the full-batch solver and its certificates."""
