"""Tests of every penalty and constraint."""
