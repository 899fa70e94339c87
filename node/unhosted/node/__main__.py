"""`python -m unhosted.node` is the `unhosted` command."""

from unhosted.node.cli.main import main

main()
