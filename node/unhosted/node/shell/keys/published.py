"""Keys that everybody has: what is sent to them is gone in seconds, so they are for the local chain alone.

Not handled here: keys made of a guessable phrase. Nobody can list those; `wallet new` draws from the system.
"""

from unhosted.market.ids import Address, address_text, parse_address
from unhosted.node.core.errors import Refused
from unhosted.node.shell.keys.signer import CURVE_ORDER, KeySigner

LOCAL_CHAIN_ID = 31337
"""What a development chain calls itself. Its money is play money, so keys may lie open there."""

NEAR_ORDER = 1 << 64
"""Keys 1, 2, 3 … are in every test suite, and swept, and so are their negatives just below the curve's order.
A drawn key so near to it has a chance of 2 to the -192."""

DISTINCT_BYTES_MIN = 12
"""Of 32 drawn bytes about 30 differ; small numbers, 0x4242…42 and hand-typed patterns have few. A drawn key
with fewer than twelve has a chance of about 2 to the -82."""

_ADDRESSES = """
0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266 0x70997970C51812dc3A010C7d01b50e0d17dc79C8
0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC 0x90F79bf6EB2c4f870365E785982E1f101E93b906
0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc
0x976EA74026E726554dB657fA54763abd0C3a0aa9 0x14dC79964da2C08b23698B3D3cc7Ca32193d9955
0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f 0xa0Ee7A142d267C1f36714E4a8F75612F20a79720
0xBcd4042DE499D14e55001CcbB24a551F3b954096 0x71bE63f3384f5fb98995898A86B02Fb2426c5788
0xFABB0ac9d68B0B445fB7357272Ff202C5651694a 0x1CBd3b2770909D4e10f157cABC84C7264073C9Ec
0xdF3e18d64BC6A983f673Ab319CCaE4f1a57C7097 0xcd3B766CCDd6AE721141F452C550Ca635964ce71
0x2546BcD3c84621e976D8185a91A922aE77ECEc30 0xbDA5747bFD65F08deb54cb465eB87D40e51B197E
0xdD2FD4581271e230360230F9337D5c0430Bf44C0 0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199
0x90F8bf6A479f320ead074411a4B0e7944Ea8c9C1 0xFFcf8FDEE72ac11b5c542428B35EEF5769C409f0
0x22d491Bde2303f2f43325b2108D26f1eAbA1e32b 0xE11BA2b4D45Eaed5996Cd0823791E0C93114882d
0xd03ea8624C8C5987235048901fB614fDcA89b117 0x95cED938F7991cd0dFcb48F0a06a40FA1aF46EBC
0x3E5e9111Ae8eB78Fe1CC3bb8915d5D461F3Ef9A9 0x28a8746e75304c0780E011BEd21C72cD78cd535E
0xACa94ef8bD5ffEE41947b4585a84BdA5a3d3DA6E 0x1dF62f291b2E969fB0849d99D9Ce41e2F137006e
0x2c7536E3605D9C16a7a3D7b1898e529396a65c23 0x5ce9454909639D2D17A3F753ce7d93fa0b9aB12E
"""
# Twenty of "test test … junk" (anvil, hardhat), ten of "myth like bonus …" (ganache -d), and the examples in
# the manuals of web3.js and eth-account.

PUBLISHED = frozenset(parse_address(text) for text in _ADDRESSES.split())


def is_published_address(address: Address) -> bool:
    """Whether the key of `address` stands in public documents."""
    return address in PUBLISHED


def is_guessable(secret: bytes) -> bool:
    """Whether 32 bytes are no drawn key: a number just below the order, or few distinct bytes."""
    return int.from_bytes(secret, "big") > CURVE_ORDER - NEAR_ORDER or len(set(secret)) < DISTINCT_BYTES_MIN


def check_use(signer: KeySigner, secret: bytes, *, chain_id: int, source: str) -> None:
    """Raises: Refused (key_refused) for a key that everybody knows, off the local chain."""
    if chain_id != LOCAL_CHAIN_ID and (is_guessable(secret) or is_published_address(signer.address)):
        raise Refused(
            "key_refused",
            f"{source} holds the key of {address_text(signer.address)}, which is published or guessable: "
            f"whatever it gets on chain {chain_id} is taken at once. Make another with `unhosted wallet new`",
        )
