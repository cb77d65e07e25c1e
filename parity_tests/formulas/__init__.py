"""The penalties as formulas of numpy, for tests that know nothing of the library."""
