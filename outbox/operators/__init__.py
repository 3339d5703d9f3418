"""What operators look at and change: shared by every interface for them."""
