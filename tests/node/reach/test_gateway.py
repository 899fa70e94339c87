from unhosted.node.shell.reach.gateway import from_bsd_route, from_linux_routes

HEADING = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def line(interface: str, destination: str, gateway: str, flags: str, metric: int, mask: str) -> str:
    return f"{interface}\t{destination}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


def test_the_default_route_of_least_metric_wins() -> None:
    table = (
        HEADING
        + line("wlan0", "00000000", "0101A8C0", "0003", 600, "00000000")
        + line("eth0", "00000000", "0102A8C0", "0003", 100, "00000000")
        + line("eth0", "0002A8C0", "00000000", "0001", 0, "00FFFFFF")
    )
    assert from_linux_routes(table) == "192.168.2.1"


def test_routes_without_a_router_are_none() -> None:
    assert from_linux_routes(HEADING) is None
    assert from_linux_routes(HEADING + line("ppp0", "00000000", "00000000", "0001", 0, "00000000")) is None
    # A half of everything is what a VPN lays over the default route; it is no router of this network.
    assert from_linux_routes(HEADING + line("tun0", "00000000", "0101A8C0", "0003", 0, "00000080")) is None


def test_what_route_says_on_a_mac() -> None:
    said = "   route to: default\ndestination: default\n    gateway: 192.168.1.1\n  interface: en0\n"
    assert from_bsd_route(said) == "192.168.1.1"
    assert from_bsd_route("    gateway: fe80::1%en0\n") is None
    assert from_bsd_route("route: writing to routing socket: not in table\n") is None
