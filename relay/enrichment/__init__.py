"""What CXone's API adds to an interaction before it is sent."""
