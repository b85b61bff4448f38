"""Readers: calibration and evaluation data for onnxq, from files of many kinds.

A reader is a small class that yields *feeds*, dicts from input name to array. It is built as
``Reader(source, inputs, **options)``, where ``inputs`` are objects with ``name``, ``dtype`` (a
numpy dtype name) and ``shape`` (None for an open axis). Iterating it twice gives the same twice.
With ``stackable = True`` the first axis of every array counts samples and onnxq cuts and joins
feeds into batches; with False each feed reaches the model as it is. Further keys of a feed
must begin with ``label``. Readers import nothing from onnxq and only read: ranks, fixed axes,
dtypes and NaN are checked by onnxq for all of them alike.

One's own reader, say in ``mydata.py`` and used as ``--data mydata:CsvReader``::

    import csv
    import numpy as np

    class CsvReader:
        name = "csv"
        stackable = True

        def __init__(self, inputs, path="rows.csv"):  # `source` too, if it is wanted
            self.input, self.path = inputs[0].name, path
            self.notes = (f"csv: rows of {path}",)  # optional: lines onnxq prints

        def __iter__(self):
            with open(self.path, newline="") as file:
                for row in csv.reader(file):
                    yield {self.input: np.array([row], np.float32)}

To find it by name and by path like the readers here, give it ``__init__(source, inputs)`` and
``@staticmethod accepts(path) -> bool``, and list it under the entry point group ``onnxq.readers``.
"""
