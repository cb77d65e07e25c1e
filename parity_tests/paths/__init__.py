"""Tests of paths over strengths."""
