"""A home router that gives ports to whoever asks: miniupnpd (Debian: miniupnpd) on a laboratory's NAT."""

from pathlib import Path

from tests.netns.lab import INTERFACE, Nat
from tests.netns.talk import Talk

TABLE = """
table inet miniupnpd {
 chain forward { type filter hook forward priority -10; }
 chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
 chain postrouting { type nat hook postrouting priority srcnat; jump postrouting_miniupnpd; }
 chain miniupnpd { }
 chain prerouting_miniupnpd { }
 chain postrouting_miniupnpd { }
}
"""
SETTINGS = """
ext_ifname={outside}
listening_ip=lan0
port=5000
enable_natpmp={nat_pmp}
enable_upnp={upnp}
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
uuid=11111111-2222-3333-4444-555555555555
secure_mode=yes
"""


def give_ports(router: Nat, folder: Path, *, nat_pmp: bool, upnp: bool) -> Talk:
    """Start it with the ways to ask that are on; returns when it listens."""
    words = {True: "yes", False: "no"}
    settings = folder / f"miniupnpd-{router.name}.conf"
    settings.write_text(SETTINGS.format(outside=INTERFACE, nat_pmp=words[nat_pmp], upnp=words[upnp]))
    router.nft(TABLE)
    daemon = Talk(
        router.popen_piped(["miniupnpd", "-d", "-f", settings, "-P", folder / "miniupnpd.pid"]),
        name=router.name,
    )
    while "listening" not in daemon.line().lower():
        pass
    return daemon


def forwarded(router: Nat) -> str:
    """The rules that it made."""
    return router.run(["nft", "list", "chain", "inet", "miniupnpd", "prerouting_miniupnpd"]).stdout
