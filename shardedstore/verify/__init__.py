"""Verification of a result against its ledger or its source."""
