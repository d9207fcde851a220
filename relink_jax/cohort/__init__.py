"""Cohorts: pairs tables, images, reports and the synthetic phantom."""
