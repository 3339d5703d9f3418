"""``relay demo``: placeholder until the pieces stand."""

import click


@click.command()
def demo() -> None:
    """Show the whole way on this machine."""
