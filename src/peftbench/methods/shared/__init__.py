"""What methods are built of."""
