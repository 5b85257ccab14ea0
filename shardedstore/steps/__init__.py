"""What steps over arrays have in common: chunks decoded, changed and encoded again."""
