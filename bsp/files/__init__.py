"""Other people's files, read within bounds: text, NumPy, HDF5, pickles and weights; errors name file and place."""
