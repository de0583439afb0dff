"""A person's own files before the work: which videos there are, whether they and their labels are fit, which grid."""
