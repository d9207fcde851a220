"""The torchvision shim of `tests/oracles`, before any test here imports transformers' torch models."""

from oracles import shim

shim.install()
