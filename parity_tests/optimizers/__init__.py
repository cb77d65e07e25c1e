"""Tests of what a user trains with."""
