"""Emitters: write a plan and its parameters into a graph."""
