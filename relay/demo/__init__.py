"""The whole way on one machine, with nothing but Python: for newcomers to see, and to try faults on."""
