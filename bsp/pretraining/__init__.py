"""Pretexts, their losses and fusion, and the loop that trains an encoder on a stream of clips."""
