"""Tests of names, masks and the sparsity report."""
