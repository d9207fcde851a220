"""Thin mains, one per stage; `relink STAGE` runs `launch/STAGE.py`."""
