"""Which tables count: those measured here or shipped, for the very pair and build; else only gross ones."""

import os
from pathlib import Path

import pytest

from tests.node.calibrating.sheets import BUILD, MODEL, of_model, sheet, table
from unhosted.market.faults import RemoteFault
from unhosted.node.core.calibrations import encode_sheet, sheet_id, table_id
from unhosted.node.shell.calibrating.store import SHIPPED_DIR, SHIPPED_IDS, CalibrationStore
from unhosted.node.shell.calibrating.tables import read_sheet, sign_sheet, write_file
from unhosted.node.shell.keys.identity import new_identity, public_key

OWN = new_identity()
STRANGER = new_identity()


def store_at(path: Path, *, shipped_dir: Path | None = None, ids: tuple[str, ...] = ()) -> CalibrationStore:
    return CalibrationStore(
        path,
        own_keys=(public_key(OWN.peer),),
        shipped_dir=shipped_dir or path / "none",
        shipped_ids=ids,
    )


def test_the_pair_that_was_measured_gets_its_table(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    one, other = table("a"), table("b", mean_ppb=3_000_000)
    write_file(store.path_for(MODEL, BUILD), sign_sheet(sheet(OWN, one, other), OWN))
    assert store.find_table(MODEL, "b", "checker", build=BUILD) == other
    assert store.knows(table_id(one)) and not store.knows(table_id(table("c")))


def test_an_unknown_pair_gets_the_worst_known_row_for_gross_cheats(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    worst = table("b", mean_ppb=400_000_000)
    write_file(store.path_for(MODEL, BUILD), sign_sheet(sheet(OWN, table("a"), worst), OWN))
    for seller, checker in (("x", "checker"), ("a", "x")):
        found = store.find_table(MODEL, seller, checker, build=BUILD)
        assert found is not None and found.is_gross
        assert (found.seller_class, found.checker_class) == (seller, checker)
        assert min(found.mean_max_ppb) >= 200_000_000  # clipped at twice the width, so half the mean


def test_another_build_of_the_library_voids_a_table(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_file(store.path_for(MODEL, BUILD), sign_sheet(sheet(OWN), OWN))
    found = store.find_table(MODEL, "seller", "checker", build="cd" * 32)
    assert found is not None and found.is_gross


def test_of_an_unknown_model_nothing_is_known(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert store.find_table(MODEL, "seller", "checker", build=BUILD) is None
    write_file(store.path_for(MODEL, BUILD), sign_sheet(sheet(OWN), OWN))
    assert store.find_table(bytes(32), "seller", "checker", build=BUILD) is None


def test_the_exact_rule_has_no_stand_in(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    exact = table("same", "same", rule="exact")
    write_file(store.path_for(MODEL, BUILD), sign_sheet(sheet(OWN, table(), exact), OWN))
    assert store.find_table(MODEL, "same", "same", build=BUILD, rule="exact") == exact
    margins = store.find_table(MODEL, "same", "same", build=BUILD)
    assert margins is not None and (margins.rule, margins.is_gross) == ("statistical", True)
    assert store.find_table(MODEL, "other", "other", build=BUILD, rule="exact") is None
    assert store.find_table(MODEL, "same", "same", build="cd" * 32, rule="exact") is None


def test_a_sheet_of_another_node_is_not_believed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_file(tmp_path / "theirs.cbor", sign_sheet(sheet(STRANGER), STRANGER))
    assert store.find_table(MODEL, "seller", "checker", build=BUILD) is None
    assert [(one.path.name, one.why) for one in store.passed_over()] == [
        ("theirs.cbor", "it is signed by another node, whose word does not count")
    ]


def test_a_shipped_sheet_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    made = sheet(STRANGER)
    shipped = tmp_path / "shipped"
    write_file(shipped / "one.cbor", sign_sheet(made, STRANGER))
    known = store_at(tmp_path, shipped_dir=shipped, ids=(sheet_id(encode_sheet(made)).hex(),))
    assert known.find_table(MODEL, "seller", "checker", build=BUILD) == table()
    unknown = store_at(tmp_path, shipped_dir=shipped)
    assert unknown.sheets() == () and len(unknown.passed_over()) == 1


def test_a_sheet_that_was_changed_is_refused_at_every_byte(tmp_path: Path) -> None:
    data = sign_sheet(sheet(OWN), OWN)
    read_sheet(data)
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(RemoteFault):
            read_sheet(bytes(changed))


def test_a_damaged_file_is_passed_over_and_a_mended_one_read_again(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    path = store.path_for(MODEL, BUILD)
    data = sign_sheet(sheet(OWN), OWN)
    write_file(path, data[:-1])
    assert store.find_table(MODEL, "seller", "checker", build=BUILD) is None
    assert "it is no sheet" in store.passed_over()[0].why
    write_file(path, data)
    assert store.find_table(MODEL, "seller", "checker", build=BUILD) == table()


def test_the_newer_sheet_counts_and_own_ones_before_shipped_ones(tmp_path: Path) -> None:
    old, new, shipped = (table(mean_ppb=mean) for mean in (1_000_000, 2_000_000, 3_000_000))
    write_file(tmp_path / "a.cbor", sign_sheet(sheet(OWN, old, made_unix_s=1), OWN))
    write_file(tmp_path / "b.cbor", sign_sheet(sheet(OWN, new, made_unix_s=2), OWN))
    made = sheet(STRANGER, shipped, made_unix_s=3)
    write_file(tmp_path / "shipped" / "c.cbor", sign_sheet(made, STRANGER))
    store = store_at(tmp_path, shipped_dir=tmp_path / "shipped", ids=(sheet_id(encode_sheet(made)).hex(),))
    assert store.find_table(MODEL, "seller", "checker", build=BUILD) == new
    os.remove(tmp_path / "a.cbor")
    os.remove(tmp_path / "b.cbor")
    assert store.find_table(MODEL, "seller", "checker", build=BUILD) == shipped


def test_a_sheet_holds_rows_of_its_own_model_and_no_pair_twice() -> None:
    with pytest.raises(ValueError, match="of another model"):
        sheet(OWN, table("a"), of_model(table("b"), bytes(32)))
    with pytest.raises(ValueError, match="twice"):
        sheet(OWN, table("a"), table("a"))


def test_nobody_signs_in_the_name_of_another() -> None:
    with pytest.raises(ValueError, match="names another signer"):
        sign_sheet(sheet(OWN), STRANGER)


def test_what_is_shipped_is_what_this_version_knows() -> None:
    found = {read_sheet(path.read_bytes()).id.hex() for path in SHIPPED_DIR.glob("*.cbor")}
    assert found == SHIPPED_IDS
