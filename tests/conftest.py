"""Settings every test shares: 8 fake CPU devices, no progress bars, nothing from the network."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["RELINK_PROGRESS"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
