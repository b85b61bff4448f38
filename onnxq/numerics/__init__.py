"""Arrays in, arrays out: the mathematics, free of models and files."""
