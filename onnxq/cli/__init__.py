"""The command line: parsing, printing, progress and exit codes; all work is `onnxq.pipeline`'s."""
