"""Models: load, look at, edit, save and run them. No quantization policy lives here."""
