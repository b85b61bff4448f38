"""Search over quantization: ask for candidates, run them, keep what is better."""
