"""The documents of docs/: what is generated from the code, and the site that ``make docs`` builds."""
