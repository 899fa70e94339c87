// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Bonds} from "../src/Bonds.sol";
import {IBonds} from "../src/IBonds.sol";
import {IUSDC} from "../src/IUSDC.sol";
import {BondsFixture} from "./helpers/BondsFixture.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice What a seller does with its bond, and how the contract is made.
contract BondsTest is BondsFixture {
    function setUp() public {
        _deploy();
    }

    function test_has_the_expected_type_hashes_and_domain() public view {
        checkEqual(
            bonds.RECEIPT_TYPEHASH(),
            keccak256(
                "Receipt(bytes32 requestId,bytes32 channelId,bytes32 modelId,bytes32 requestHash,bytes32 responseHash,uint32 inTokens,uint32 outTokens,uint96 amount)"
            ),
            "receipt"
        );
        checkEqual(
            bonds.VERDICT_TYPEHASH(), keccak256("Verdict(bytes32 receipt,uint96 slash,bool onAppeal)"), "verdict"
        );
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("UnhostedBonds"),
                keccak256("1"),
                block.chainid,
                address(bonds)
            )
        );
        checkEqual(bonds.domainSeparator(), separator, "domain");
        IBonds.Receipt memory r = _receipt(1, 2);
        bytes32 structHash = keccak256(
            bytes.concat(
                abi.encode(bonds.RECEIPT_TYPEHASH(), r.requestId, r.channelId, r.modelId, r.requestHash),
                abi.encode(r.responseHash, r.inTokens, r.outTokens, r.amount)
            )
        );
        checkEqual(
            bonds.receiptHash(r), keccak256(abi.encodePacked(hex"1901", separator, structHash)), "receipt digest"
        );
        structHash = keccak256(abi.encode(bonds.VERDICT_TYPEHASH(), bytes32(uint256(5)), uint96(6), true));
        checkEqual(
            bonds.verdictHash(bytes32(uint256(5)), 6, true),
            keccak256(abi.encodePacked(hex"1901", separator, structHash)),
            "verdict digest"
        );
    }

    function test_keeps_what_it_was_made_with() public view {
        checkEqual(address(bonds.token()), address(usdc), "token");
        checkEqual(bonds.sink(), SINK, "sink");
        checkEqual(bonds.k(), K, "k");
        checkEqual(bonds.kAppeal(), K_APPEAL, "k on appeal");
        checkEqual(bonds.maxSlash(), MAX_SLASH, "maximum");
        checkEqual(bonds.window(), WINDOW, "window");
        checkEqual(bonds.unbond(), UNBOND, "unbond");
        for (uint256 i; i < VERIFIERS; ++i) {
            check(bonds.verifier(vm.addr(verifierKeys[i])), "verifier");
        }
        check(!bonds.verifier(seller), "a seller is no verifier");
    }

    function test_refuses_to_be_made_of_what_cannot_work() public {
        address[] memory accounts = _verifiers();
        address token = address(usdc);
        _expectSetup(token, SINK, accounts, 1, 7, 1, WINDOW, UNBOND, "");
        address bare = address(0xAAAA);
        _expectSetup(
            bare, SINK, accounts, 4, 6, 1, WINDOW, UNBOND, abi.encodeWithSelector(IBonds.BadAddress.selector, bare)
        );
        _expectSetup(
            token,
            address(0),
            accounts,
            4,
            6,
            1,
            WINDOW,
            UNBOND,
            abi.encodeWithSelector(IBonds.BadAddress.selector, address(0))
        );
        _expectSetup(
            token, token, accounts, 4, 6, 1, WINDOW, UNBOND, abi.encodeWithSelector(IBonds.BadAddress.selector, token)
        );
        _expectSetup(
            token, SINK, accounts, 0, 6, 1, WINDOW, UNBOND, abi.encodeWithSelector(IBonds.BadQuorum.selector, 0, 6, 7)
        );
        _expectSetup(
            token, SINK, accounts, 6, 5, 1, WINDOW, UNBOND, abi.encodeWithSelector(IBonds.BadQuorum.selector, 6, 5, 7)
        );
        _expectSetup(
            token, SINK, accounts, 4, 8, 1, WINDOW, UNBOND, abi.encodeWithSelector(IBonds.BadQuorum.selector, 4, 8, 7)
        );
        _expectSetup(
            token, SINK, accounts, 4, 6, 0, WINDOW, UNBOND, abi.encodeWithSelector(IBonds.BadMaximum.selector, 0)
        );
        _expectSetup(
            token, SINK, accounts, 4, 6, 1, 0, UNBOND, abi.encodeWithSelector(IBonds.BadTimes.selector, 0, UNBOND)
        );
        _expectSetup(
            token,
            SINK,
            accounts,
            4,
            6,
            1,
            WINDOW,
            2 * WINDOW,
            abi.encodeWithSelector(IBonds.BadTimes.selector, WINDOW, 2 * WINDOW)
        );
        _expectSetup(token, SINK, accounts, 4, 6, 1, WINDOW, 2 * WINDOW + 1, "");
        _expectSetup(token, SINK, accounts, 4, 6, 1, WINDOW, 90 days, "");
        _expectSetup(
            token,
            SINK,
            accounts,
            4,
            6,
            1,
            WINDOW,
            90 days + 1,
            abi.encodeWithSelector(IBonds.BadTimes.selector, WINDOW, 90 days + 1)
        );
        accounts[3] = accounts[5];
        _expectSetup(
            token,
            SINK,
            accounts,
            4,
            6,
            1,
            WINDOW,
            UNBOND,
            abi.encodeWithSelector(IBonds.BadVerifier.selector, accounts[5])
        );
        accounts[3] = address(0);
        _expectSetup(
            token,
            SINK,
            accounts,
            4,
            6,
            1,
            WINDOW,
            UNBOND,
            abi.encodeWithSelector(IBonds.BadVerifier.selector, address(0))
        );
    }

    function test_refuses_to_be_its_own_sink() public {
        // The next contract that this one makes: nonces count from 1, and the token and the bonds came before.
        address next = address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", address(this), hex"03")))));
        vm.expectRevert(abi.encodeWithSelector(IBonds.BadAddress.selector, next));
        new Bonds(IUSDC(address(usdc)), next, _verifiers(), K, K_APPEAL, MAX_SLASH, WINDOW, UNBOND);
    }

    function test_a_bond_is_what_was_put_in() public {
        usdc.mint(seller, 30e6);
        vm.prank(seller);
        usdc.approve(address(bonds), 30e6);
        vm.expectEmit(address(bonds));
        emit IBonds.Bonded(seller, 20e6);
        vm.prank(seller);
        bonds.bond(20e6);
        vm.prank(seller);
        bonds.bond(10e6);
        (uint96 amount, uint96 locked, uint40 unlockAt, bool frozen) = bonds.bonds(seller);
        checkEqual(amount, 30e6, "amount");
        check(locked == 0 && unlockAt == 0 && !frozen, "nothing else");
        checkEqual(usdc.balanceOf(address(bonds)), 30e6, "money");
    }

    function test_a_bond_without_approval_is_refused() public {
        usdc.mint(seller, 30e6);
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        vm.prank(seller);
        bonds.bond(1);
    }

    function test_a_bond_comes_back_whole_after_the_time_and_not_before() public {
        _bond(seller, 30e6);
        vm.expectEmit(address(bonds));
        emit IBonds.UnbondRequested(seller, uint40(START + UNBOND));
        vm.prank(seller);
        bonds.requestUnbond();
        vm.warp(START + UNBOND - 1);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NotReady.selector, START + UNBOND, START + UNBOND - 1));
        vm.prank(seller);
        bonds.unbondAll();
        vm.warp(START + UNBOND);
        vm.expectEmit(address(bonds));
        emit IBonds.Unbonded(seller, 30e6);
        vm.prank(seller);
        bonds.unbondAll();
        checkEqual(usdc.balanceOf(seller), 30e6, "back");
        checkEqual(_amount(seller), 0, "no bond");
        checkEqual(_unlockAt(seller), 0, "no date");
        vm.expectRevert(abi.encodeWithSelector(IBonds.NotReady.selector, 0, START + UNBOND));
        vm.prank(seller);
        bonds.unbondAll();
    }

    function test_nothing_comes_back_unasked() public {
        _bond(seller, 30e6);
        vm.warp(START + 1000 days);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NotReady.selector, 0, START + 1000 days));
        vm.prank(seller);
        bonds.unbondAll();
    }

    function test_who_has_no_bond_has_none_to_take_back() public {
        vm.expectRevert(abi.encodeWithSelector(IBonds.NoBond.selector, thief));
        vm.prank(thief);
        bonds.requestUnbond();
        _bond(seller, 10e6);
        vm.prank(seller);
        bonds.requestUnbond();
        _equivocate(SELLER_KEY, 1);
        vm.warp(START + UNBOND);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NoBond.selector, seller));
        vm.prank(seller);
        bonds.unbondAll();
    }

    function test_bonding_again_takes_back_the_request_to_unbond() public {
        _bond(seller, 30e6);
        vm.prank(seller);
        bonds.requestUnbond();
        vm.prank(seller);
        bonds.bond(0);
        checkEqual(_unlockAt(seller), 0, "no date");
        vm.warp(START + UNBOND);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NotReady.selector, 0, START + UNBOND));
        vm.prank(seller);
        bonds.unbondAll();
    }

    function test_asking_again_starts_the_time_again() public {
        _bond(seller, 30e6);
        vm.prank(seller);
        bonds.requestUnbond();
        vm.warp(START + 1 days);
        vm.prank(seller);
        bonds.requestUnbond();
        checkEqual(_unlockAt(seller), START + 1 days + UNBOND, "later");
    }

    function test_a_thief_gets_nothing_of_anothers_bond() public {
        _bond(seller, 30e6);
        _bond(thief, 1);
        vm.prank(thief);
        bonds.requestUnbond();
        vm.warp(START + UNBOND);
        vm.prank(thief);
        bonds.unbondAll();
        checkEqual(usdc.balanceOf(thief), 1, "its own");
        checkEqual(_amount(seller), 30e6, "the seller's");
    }

    function testFuzz_bonds_add_up(uint96 first, uint96 second) public {
        first = uint96(bound(first, 1, type(uint96).max / 2));
        second = uint96(bound(second, 1, type(uint96).max / 2));
        _bond(seller, first);
        _bond(seller, second);
        checkEqual(_amount(seller), uint256(first) + second, "sum");
        checkEqual(usdc.balanceOf(address(bonds)), uint256(first) + second, "money");
    }

    /// @notice Makes the contract with these values; `refusal` empty: it must work.
    function _expectSetup(
        address token,
        address sink,
        address[] memory accounts,
        uint8 k,
        uint8 kAppeal,
        uint96 maxSlash,
        uint32 window,
        uint32 unbond,
        bytes memory refusal
    ) private {
        if (refusal.length != 0) vm.expectRevert(refusal);
        new Bonds(IUSDC(token), sink, accounts, k, kAppeal, maxSlash, window, unbond);
    }
}
