"""Both kinds of signatures in evidence: the buyer's identity under requests, the seller's key under receipts.

No network library is behind either, so an offline node checks them, too.
"""

from unhosted.market.ids import PeerText
from unhosted.node.core.evidence import Evidence
from unhosted.node.core.evidence_checks import EvidenceFault, check_evidence
from unhosted.node.shell.keys.identity import verify
from unhosted.node.shell.keys.signer import recover


def faults_of(evidence: Evidence) -> tuple[EvidenceFault, ...]:
    """All that does not agree in the file, signatures included."""
    return check_evidence(evidence, recover=recover, is_signed=is_signed)


def is_signed(peer: PeerText, message: bytes, signature: bytes) -> bool:
    """Whether the peer's identity signed the message; False for a name that holds no key."""
    try:
        return verify(peer, message, signature)
    except ValueError:
        return False
