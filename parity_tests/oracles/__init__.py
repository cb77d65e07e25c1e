"""Independent truths that both twins are held against."""
