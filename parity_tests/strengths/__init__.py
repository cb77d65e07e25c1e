"""Tests of schedules and priors."""
