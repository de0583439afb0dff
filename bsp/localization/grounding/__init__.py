"""Video grounding: sentences, 2D-TAN and LGI."""
