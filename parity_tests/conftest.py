"""Set-up shared by all tests: float64 in JAX, eight CPU devices, one doctest name."""
