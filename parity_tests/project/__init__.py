"""Tests of what users meet first: names, README, examples, layout."""
