// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Bonds} from "../../src/Bonds.sol";
import {IBonds} from "../../src/IBonds.sol";
import {IUSDC} from "../../src/IUSDC.sol";
import {TestUSDC} from "../../src/TestUSDC.sol";
import {Checks} from "./Checks.sol";
import {vm} from "./Vm.sol";

/// @notice A token, the bonds, a seller, a thief, and seven verifiers in ascending order of their addresses.
abstract contract BondsFixture is Checks {
    uint256 internal constant SELLER_KEY = 0x5E11;
    uint256 internal constant THIEF_KEY = 0xBAD;
    uint256 internal constant VERIFIERS = 7;
    uint8 internal constant K = 4;
    uint8 internal constant K_APPEAL = 6;
    uint96 internal constant MAX_SLASH = 50e6;
    uint32 internal constant WINDOW = 3 days;
    uint32 internal constant UNBOND = 7 days;
    uint256 internal constant START = 1_795_348_800;
    address internal constant SINK = address(0xD00D);

    address internal immutable seller = vm.addr(SELLER_KEY);
    address internal immutable thief = vm.addr(THIEF_KEY);

    TestUSDC internal usdc;
    Bonds internal bonds;
    uint256[] internal verifierKeys;

    function _deploy() internal {
        vm.warp(START);
        usdc = new TestUSDC("USDC");
        _makeVerifiers();
        bonds = _bondsOver(address(usdc));
    }

    function _bondsOver(address token) internal returns (Bonds) {
        return new Bonds(IUSDC(token), SINK, _verifiers(), K, K_APPEAL, MAX_SLASH, WINDOW, UNBOND);
    }

    /// @notice Keys whose addresses ascend: the order in which signatures are handed in.
    function _makeVerifiers() private {
        for (uint256 key = 1; verifierKeys.length < VERIFIERS; ++key) {
            verifierKeys.push(key);
            for (uint256 i = verifierKeys.length - 1; i > 0; --i) {
                if (vm.addr(verifierKeys[i - 1]) < vm.addr(verifierKeys[i])) break;
                (verifierKeys[i - 1], verifierKeys[i]) = (verifierKeys[i], verifierKeys[i - 1]);
            }
        }
    }

    function _verifiers() internal view returns (address[] memory accounts) {
        accounts = new address[](VERIFIERS);
        for (uint256 i; i < VERIFIERS; ++i) {
            accounts[i] = vm.addr(verifierKeys[i]);
        }
    }

    /// @notice Gives `owner` so much and puts it into its bond.
    function _bond(address owner, uint96 value) internal {
        usdc.mint(owner, value);
        vm.prank(owner);
        usdc.approve(address(bonds), value);
        vm.prank(owner);
        bonds.bond(value);
    }

    function _receipt(uint256 request, uint256 response) internal pure returns (IBonds.Receipt memory receipt) {
        receipt.requestId = bytes32(request);
        receipt.channelId = bytes32(uint256(7));
        receipt.modelId = bytes32(uint256(8));
        receipt.requestHash = bytes32(uint256(9));
        receipt.responseHash = bytes32(response);
        (receipt.inTokens, receipt.outTokens, receipt.amount) = (100, 20, 5_000);
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @notice The receipt, signed by `key`.
    function _signed(uint256 key, IBonds.Receipt memory receipt) internal view returns (bytes memory) {
        return _sign(key, bonds.receiptHash(receipt));
    }

    /// @notice The word of the first `count` verifiers.
    function _verdicts(bytes32 receipt, uint96 amount, bool onAppeal, uint256 count)
        internal
        view
        returns (bytes[] memory signatures)
    {
        signatures = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            signatures[i] = _sign(verifierKeys[i], bonds.verdictHash(receipt, amount, onAppeal));
        }
    }

    /// @notice Opens a case over a receipt of `key` for the request, as anybody.
    function _open(uint256 key, uint256 request, uint96 amount) internal returns (bytes32 id) {
        IBonds.Receipt memory receipt = _receipt(request, 1);
        id = bonds.receiptHash(receipt);
        bonds.openCase(receipt, _signed(key, receipt), amount, _verdicts(id, amount, false, K));
    }

    /// @notice Hands in two receipts of `key` for the request, as anybody.
    function _equivocate(uint256 key, uint256 request) internal {
        IBonds.Receipt memory a = _receipt(request, 1);
        IBonds.Receipt memory b = _receipt(request, 2);
        bonds.slashEquivocation(a, _signed(key, a), b, _signed(key, b));
    }

    function _appeal(bytes32 id) internal {
        (address accused,,,) = bonds.cases(id);
        vm.prank(accused);
        bonds.appeal(id);
    }

    function _none() internal pure returns (bytes[] memory) {
        return new bytes[](0);
    }

    function _amount(address owner) internal view returns (uint96 amount) {
        (amount,,,) = bonds.bonds(owner);
    }

    function _lockedOf(address owner) internal view returns (uint96 locked) {
        (, locked,,) = bonds.bonds(owner);
    }

    function _unlockAt(address owner) internal view returns (uint40 unlockAt) {
        (,, unlockAt,) = bonds.bonds(owner);
    }

    function _state(bytes32 id) internal view returns (IBonds.State state) {
        (,,, state) = bonds.cases(id);
    }
}
