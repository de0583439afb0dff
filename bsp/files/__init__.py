"""Files of other people, read within bounds: text, NumPy, HDF5, pickles and weights, with errors that name file and place."""
