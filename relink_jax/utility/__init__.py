"""What the mitigation costs: the 14-label linear probe."""
