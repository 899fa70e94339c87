// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Channels} from "../../src/Channels.sol";
import {IChannels} from "../../src/IChannels.sol";
import {IUSDC} from "../../src/IUSDC.sol";
import {TestUSDC} from "../../src/TestUSDC.sol";
import {Checks} from "./Checks.sol";
import {vm} from "./Vm.sol";

/// @notice A token, the contract, and keys for a buyer, its operator, its voucher signer, a seller and a thief.
abstract contract ChannelsFixture is Checks {
    uint256 internal constant BUYER_KEY = 0xB0B;
    uint256 internal constant OPERATOR_KEY = 0x0909;
    uint256 internal constant SIGNER_KEY = 0x516E;
    uint256 internal constant SELLER_KEY = 0x5E11;
    uint256 internal constant THIEF_KEY = 0xBAD;
    /// @dev 2026-11-22 12:00:00 UTC: eight and a half days before the month's end.
    uint256 internal constant START = 1_795_348_800;
    uint40 internal constant FOREVER = type(uint40).max;
    uint32 internal constant DELAY = 1 days;

    address internal immutable buyer = vm.addr(BUYER_KEY);
    address internal immutable operator = vm.addr(OPERATOR_KEY);
    address internal immutable signer = vm.addr(SIGNER_KEY);
    address internal immutable seller = vm.addr(SELLER_KEY);
    address internal immutable thief = vm.addr(THIEF_KEY);

    TestUSDC internal usdc;
    Channels internal channels;

    function _deploy() internal {
        vm.warp(START);
        usdc = new TestUSDC("USDC");
        channels = new Channels(IUSDC(address(usdc)));
    }

    /// @notice Gives `owner` so much and puts it into its account.
    function _fund(address owner, uint256 value) internal {
        usdc.mint(owner, value);
        vm.prank(owner);
        usdc.approve(address(channels), value);
        vm.prank(owner);
        channels.deposit(value);
    }

    /// @notice The channel of buyer and seller with this salt.
    function _config(uint256 salt) internal view returns (IChannels.Config memory) {
        return IChannels.Config(buyer, signer, seller, DELAY, bytes32(salt));
    }

    /// @notice Opens the channel, as the buyer.
    function _open(IChannels.Config memory cfg, uint96 total) internal returns (bytes32 id) {
        vm.prank(cfg.payer);
        channels.allocate(cfg, total, 0, "");
        return channels.channelId(cfg);
    }

    function _free(address owner) internal view returns (uint96 free) {
        (free,,,,) = channels.accounts(owner);
    }

    function _used(address owner) internal view returns (uint96 used, uint32 month) {
        (,,, used, month) = channels.accounts(owner);
    }

    function _channel(bytes32 id) internal view returns (IChannels.Channel memory channel) {
        (channel.deposit, channel.claimed, channel.closeAt, channel.closed) = channels.channels(id);
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function _digest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", channels.domainSeparator(), structHash));
    }

    function _voucherDigest(bytes32 id, uint96 amount) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(keccak256("Voucher(bytes32 channelId,uint96 amount)"), id, amount)));
    }

    function _voucher(uint256 key, bytes32 id, uint96 amount) internal view returns (bytes memory) {
        return _sign(key, _voucherDigest(id, amount));
    }

    function _allocateDigest(bytes32 id, uint96 total, uint40 validBefore) internal view returns (bytes32) {
        bytes32 typeHash = keccak256("Allocate(bytes32 channelId,uint96 total,uint40 validBefore)");
        return _digest(keccak256(abi.encode(typeHash, id, total, validBefore)));
    }

    function _allocation(uint256 key, IChannels.Config memory cfg, uint96 total)
        internal
        view
        returns (bytes memory)
    {
        return _sign(key, _allocateDigest(channels.channelId(cfg), total, FOREVER));
    }

    function _closeDigest(bytes32 id, uint96 amount) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(keccak256("Close(bytes32 channelId,uint96 amount)"), id, amount)));
    }

    function _requestDigest(bytes32 id, uint40 validBefore) internal view returns (bytes32) {
        bytes32 typeHash = keccak256("RequestClose(bytes32 channelId,uint40 validBefore)");
        return _digest(keccak256(abi.encode(typeHash, id, validBefore)));
    }

    /// @notice EIP-3009 for the contract: the buyer deposits `value` and names operator and limit.
    function _depositSignature(uint256 key, uint256 value, address op, uint96 limit, bytes32 salt)
        internal
        view
        returns (bytes memory)
    {
        bytes32 typeHash = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,"
            "uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        bytes32 nonce = keccak256(abi.encode(op, limit, salt));
        bytes32 structHash =
            keccak256(abi.encode(typeHash, vm.addr(key), address(channels), value, 0, FOREVER, nonce));
        return _sign(key, keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash)));
    }

    function _permitSignature(uint256 key, uint256 value) internal view returns (bytes memory) {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        address owner = vm.addr(key);
        bytes32 structHash =
            keccak256(abi.encode(typeHash, owner, address(channels), value, usdc.nonces(owner), FOREVER));
        return _sign(key, keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash)));
    }

    function _one(IChannels.Config memory cfg, uint96 amount, bytes memory signature)
        internal
        pure
        returns (IChannels.Claim[] memory rows)
    {
        rows = new IChannels.Claim[](1);
        rows[0] = IChannels.Claim(cfg, amount, signature);
    }

    /// @notice Claims `amount` with the voucher that `SIGNER_KEY` signs for it.
    function _claim(IChannels.Config memory cfg, uint96 amount, bool payOut) internal {
        bytes memory signature = _voucher(SIGNER_KEY, channels.channelId(cfg), amount);
        channels.claim(cfg.payee, _one(cfg, amount, signature), payOut);
    }
}
