"""Random float64 parameters that keep the variance and leave no term idle, for towers compared with a plain NumPy oracle."""

import functools

import jax
import numpy as np

CENTRES = {"scale": 1.0, "var": 1.5}


def fill(shapes, seed=0):
    """Returns arrays of the shapes of a tree: kernels N(0, 1.4 / fan-in), variances in [0.5, 2.5], all else N(centre, 0.3)."""
    draw = np.random.default_rng(seed)

    def array(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return draw.standard_normal(leaf.shape) * (1.4 / np.prod(leaf.shape[:-1])) ** 0.5
        return draw.uniform(0.5, 2.5, leaf.shape) if name == "var" else CENTRES.get(name, 0.0) + 0.3 * draw.standard_normal(leaf.shape)

    return jax.tree_util.tree_map_with_path(array, shapes)


def of(module, *inputs, seed=0):
    """Returns random parameters of a module that is called with `inputs`."""
    return fill(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"], seed)


@functools.partial(jax.jit, static_argnums=0)
def _apply(module, params, *inputs):
    return module.apply({"params": params}, *inputs)


def run(module, params, *inputs):
    """Returns the module's output in float64."""
    with jax.enable_x64(True):
        return np.asarray(_apply(module, params, *inputs))


def paths(tree):
    """Returns `{'a/b/c': shape}` of a tree."""
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def layer_norm(x, parameters, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * parameters["scale"] + parameters["bias"]


def dense(x, parameters):
    return x @ parameters["kernel"] + parameters.get("bias", 0.0)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
