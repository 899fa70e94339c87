// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {ITestUSDC} from "../../src/ITestUSDC.sol";
import {TestUSDC} from "../../src/TestUSDC.sol";
import {Checks, NotTrue} from "./Checks.sol";
import {vm} from "./Vm.sol";

/// @notice A token, a holder with a key and money, and what it can sign.
abstract contract TokenFixture is Checks {
    uint256 internal constant HOLDER_KEY = 0x4242;
    uint256 internal constant OTHER_KEY = 0x0BAD;
    uint256 internal constant START = 1_795_348_800;
    uint256 internal constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    address internal constant PAYEE = address(0x9A7EE);
    address internal constant ANYONE = address(0xA11);

    address internal immutable holder = vm.addr(HOLDER_KEY);
    TestUSDC internal usdc;

    /// @dev An EIP-3009 authorization; `domain` and `key` say how it is signed.
    struct Authorization {
        bytes32 typeHash;
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
        bytes32 domain;
        uint256 key;
    }

    function _deploy() internal {
        vm.warp(START);
        usdc = new TestUSDC("USD Coin");
        usdc.mint(holder, 1_000e6);
    }

    function _domain(string memory name, string memory version, uint256 chainId) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256(bytes(version)),
                chainId,
                address(usdc)
            )
        );
    }

    /// @notice A good one of 5 units to PAYEE, to be received by it.
    function _receive(uint256 nonce) internal view returns (Authorization memory) {
        return Authorization(
            usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
            holder,
            PAYEE,
            5,
            0,
            2 ** 40,
            bytes32(nonce),
            _domain("USD Coin", "2", block.chainid),
            HOLDER_KEY
        );
    }

    /// @notice The same, to be transferred by anyone.
    function _transfer(uint256 nonce) internal view returns (Authorization memory given) {
        given = _receive(nonce);
        given.typeHash = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
    }

    function _signed(Authorization memory given) internal pure returns (bytes memory) {
        return _sign(
            given.key,
            given.domain,
            keccak256(
                abi.encode(
                    given.typeHash, given.from, given.to, given.value, given.validAfter, given.validBefore, given.nonce
                )
            )
        );
    }

    function _sign(uint256 key, bytes32 domain, bytes32 structHash) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, keccak256(abi.encodePacked(hex"1901", domain, structHash)));
        return abi.encodePacked(r, s, v);
    }

    function _handIn(Authorization memory given, bytes memory signature, address caller) internal {
        bool isReceive = given.typeHash == usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH();
        vm.prank(caller);
        if (isReceive) {
            usdc.receiveWithAuthorization(
                given.from, given.to, given.value, given.validAfter, given.validBefore, given.nonce, signature
            );
        } else {
            usdc.transferWithAuthorization(
                given.from, given.to, given.value, given.validAfter, given.validBefore, given.nonce, signature
            );
        }
    }

    /// @notice Hands it in, as its payee; `refusal` empty: it must work.
    function _case(Authorization memory given, string memory refusal) internal {
        _case(given, _signed(given), PAYEE, refusal);
    }

    function _case(Authorization memory given, bytes memory signature, address caller, string memory refusal) internal {
        uint256 balance = usdc.balanceOf(given.to);
        if (bytes(refusal).length == 0) {
            _handIn(given, signature, caller);
            checkEqual(usdc.balanceOf(given.to), balance + given.value, "moved");
            check(usdc.authorizationState(given.from, given.nonce), "used");
        } else {
            try this.handIn(given, signature, caller) {
                revert NotTrue(refusal);
            } catch Error(string memory said) {
                checkEqual(keccak256(bytes(said)), keccak256(bytes(refusal)), string.concat(said, " / ", refusal));
            }
            checkEqual(usdc.balanceOf(given.to), balance, "not moved");
        }
    }

    /// @dev External so that a refusal can be caught with its words.
    function handIn(Authorization memory given, bytes memory signature, address caller) external {
        _handIn(given, signature, caller);
    }

    function _permitSignature(uint256 key, uint256 nonce, uint256 deadline) internal view returns (bytes memory) {
        return _sign(
            key,
            usdc.DOMAIN_SEPARATOR(),
            keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), holder, PAYEE, uint256(9), nonce, deadline))
        );
    }

    /// @notice A permit of 9 units from the holder to PAYEE; `refusal` empty: it must work.
    function _permitCase(uint256 key, uint256 nonce, uint256 deadline, string memory refusal) internal {
        bytes memory signature = _permitSignature(key, nonce, deadline);
        if (bytes(refusal).length != 0) vm.expectRevert(bytes(refusal));
        usdc.permit(holder, PAYEE, 9, deadline, signature);
        if (bytes(refusal).length == 0) checkEqual(usdc.allowance(holder, PAYEE), 9, "allowed");
    }
}
