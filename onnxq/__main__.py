"""``python -m onnxq``."""

from onnxq.cli.app import main

main()
