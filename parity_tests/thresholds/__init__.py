"""Tests of steps, thresholds and target sparsity."""
