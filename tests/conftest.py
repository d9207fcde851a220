"""What every test shares: 8 fake CPU devices, no progress bars, nothing from the network; and fixtures that save compiling."""

import dataclasses
import os
import pathlib

import pytest

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["RELINK_PROGRESS"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"


_SHAPES = {}


@pytest.fixture(scope="module")
def traced_once():
    """Traces the towers of a spec once, for files that convert copies of one model; where its files lie changes no shape."""
    from relink_jax.encoders import convert

    traced = convert.target_shapes

    def target_shapes(spec):
        anywhere = dataclasses.replace(spec, directory=pathlib.Path())
        if anywhere not in _SHAPES:
            _SHAPES[anywhere] = traced(spec)
        return dict(_SHAPES[anywhere])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "target_shapes", target_shapes)
        yield


def _quickly():
    """Compiles with few of XLA's optimisations, which is most of what a small test costs; RELINK_TEST_OPTIMISED=1 compiles as users do.

    For what no rounding decides, or where rounding has its tolerance; never where a score's bits are the property.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", "RELINK_TEST_OPTIMISED" not in os.environ)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


quick = pytest.fixture(_quickly, name="quick")
quick_module = pytest.fixture(_quickly, name="quick_module", scope="module")


@pytest.fixture(scope="module")
def undrawn():
    """Leaves the figures of pages empty, for files that read everything else of a page; they are drawn in tests/report and by the demo."""
    from relink_jax.report import plots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "image", lambda *_: "<svg/>")
        yield
