"""What every floor may use: errors, files, locks, digests, seeds, progress."""
