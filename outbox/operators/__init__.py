"""What operators see and change, without any user interface."""
