"""How near one output is to another, and to the labels."""
