"""Thin mains, one per stage; `relink STAGE` runs `launch/STAGE.py`, `relink cluster` runs `launch/cluster_view.py`."""
