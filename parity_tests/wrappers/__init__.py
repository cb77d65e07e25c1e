"""Tests of the torch optimizers around others."""
