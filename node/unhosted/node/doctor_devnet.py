"""`unhosted doctor`: whether a local chain can be run here."""

from unhosted.node import app_devnet
from unhosted.node.finding import Finding


def devnet() -> Finding:
    """Which engine `unhosted devnet` would take. Never raises."""
    facts = app_devnet.engine_facts()
    if facts.fault is not None:
        step = "unset UNHOSTED_ANVIL" if facts.has_machine else app_devnet.install_commands()[0]
        return Finding(check="devnet", status="warn", text=facts.fault, next=step)
    if facts.anvil is not None:
        text = f"anvil {facts.anvil_version or '(version unknown)'} at {facts.anvil}"
    else:
        text = "no anvil; the Ethereum machine in Python runs local chains"
    return Finding(check="devnet", status="ok", text=text)
