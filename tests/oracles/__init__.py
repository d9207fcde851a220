"""Reference models in torch, built from transformers' parts, with the files their authors publish; needs torch and transformers.

Nothing here imports relink_jax: what these modules say is what relink_jax is held against. `families.FAMILIES` lists every published
layout; each builds a checkpoint directory and returns a `core.Oracle`, which computes that checkpoint's outputs in float64. `make.py`
writes the goldens that the default tests read without torch.
"""

from oracles import shim

shim.install()
