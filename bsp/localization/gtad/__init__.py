"""G-TAD: action localisation by sub-graphs of snippets (Xu et al., CVPR 2020)."""
