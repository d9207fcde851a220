"""The part of a cohort that embedding reads: image files by row."""

import types

from relink_jax.cohort import paths, schema


class Loose(types.SimpleNamespace):
    """Images by `image_path` below `image_root`."""

    def image_file(self, row):
        return paths.inside(self.image_root, self.image_path[row], schema.called(row))
