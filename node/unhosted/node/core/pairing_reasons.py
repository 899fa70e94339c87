"""Why a pairing failed, for people: what happened and what to do next."""

from unhosted.node.core.pairing_words import Role, Why
from unhosted.node.core.peering import PeerId

NEW_CODE = "run `unhosted pair` there again for a new code"
NEWER_CODE = "a newer code was made here; only that one works now"
EXPIRED = "the code was not used within ten minutes; run `unhosted pair` again for a new one"
OWN_NO = "you said no; nothing was changed here or there"
OWN_CANCEL = "the pairing was cancelled; nothing was changed here or there"
OWN_TIMEOUT = "nobody answered the question within five minutes; run `unhosted pair` again"
OWN_DEAD = (
    "three wrong codes were tried, so this one is dead; run `unhosted pair` again. If it was not"
    " you who typed them, somebody else on the network did"
)
LOST = (
    "the connection was lost before both sides had said yes, so neither is paired; run `unhosted pair` again"
)
UNRESOLVED = "the connection was lost after you said yes; the next contact with the other machine decides"
WRONG_PROOF = (
    "the other machine could not prove that it knows the code: compare the codes on both screens; if they are"
    " the same, another machine stands between the two, so pair over another network"
)
BROKEN_RULE = "the other machine broke the pairing protocol; update unhosted on both machines and try again"
NO_ANSWER = "the other machine ended the talk without a word; try again in a minute"
NOT_COMPLETED = "the other machine had not said yes when the connection was lost; run `unhosted pair` again"

_DECLINED: dict[Why, str] = {
    "no-code": f"no code is open on the other machine; {NEW_CODE}",
    "busy": "the other machine is busy with other tries; try again in a minute",
    "dead": f"the code is dead after three wrong tries; {NEW_CODE}",
    "used": f"the code was used already, and works once; {NEW_CODE}",
    "said-no": "the user of the other machine said no; nothing was changed here or there",
    "cancelled": "the pairing was cancelled on the other machine; nothing was changed here or there",
    "timeout": f"the other machine waited too long for an answer; {NEW_CODE}",
    "version": "the other machine speaks another version of pairing; update unhosted on both",
    "failed": f"the other machine could not go on; look at its log, then {NEW_CODE}",
}


def wrong_try(peer: PeerId) -> str:
    """What the screen with the code says while there are tries left."""
    return (
        f"the machine …{peer[-6:]} tried a wrong code; if it showed the right one, another machine stands"
        " between the two, so pair over another network"
    )


def declined(why: Why, *, role: Role, tries_left: int) -> str:
    """The other side's `Decline` in words. role: ours."""
    if why != "wrong-code":
        return _DECLINED[why]
    if role == "offer":
        return WRONG_PROOF
    rest = "1 try is" if tries_left == 1 else f"{tries_left} tries are"
    return (
        f"the code is wrong, and {rest} left: compare it with the other screen; if it is the same, another"
        " machine stands between the two, so pair over another network"
    )
