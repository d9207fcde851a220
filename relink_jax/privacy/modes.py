"""The modes of a run's randomness, see `noise`: how many normals make one, and the public grid that released heads lie on; imports no jax."""

TEST = "test"
MODES = ("research", "careful")
DRAWS = {TEST: 1, "research": 1, "careful": 4}
GRIDS = {TEST: None, "research": None, "careful": "bfloat16"}
