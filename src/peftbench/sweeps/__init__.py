"""Many runs: which train in one pass, and how settings are chosen."""
