// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Bonds} from "../src/Bonds.sol";
import {Channels} from "../src/Channels.sol";
import {IBonds} from "../src/IBonds.sol";
import {IChannels} from "../src/IChannels.sol";
import {IUSDC} from "../src/IUSDC.sol";
import {TestUSDC} from "../src/TestUSDC.sol";
import {Hashes} from "../src/lib/Hashes.sol";
import {Signatures} from "../src/lib/Signatures.sol";
import {Checks} from "./helpers/Checks.sol";
import {vm} from "./helpers/Vm.sol";

/// @dev The contract's own hashing and recovery, with nothing before it.
contract OpenChannels is Channels {
    constructor(IUSDC usdc) Channels(usdc) {}

    function digestOfTwo(bytes32 typeHash, bytes32 id, uint256 value) external view returns (bytes32) {
        return _digest(Hashes.hash(typeHash, id, value));
    }

    function digestOfAllocate(bytes32 id, uint96 total, uint40 validBefore) external view returns (bytes32) {
        return _digest(keccak256(abi.encode(ALLOCATE_TYPEHASH, id, total, validBefore)));
    }

    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return Signatures.recover(digest, signature);
    }
}

/// @notice tests/vectors/eip712.json: the same digests and signatures as in Python and in eth-account.
contract VectorsTest is Checks {
    /// @dev The file has one vector on each line. A line is read by itself, since each look into a text parses it.
    string[] private _lines;
    bytes private _channelsCode;
    bytes private _bondsCode;

    function setUp() public {
        _lines = vm.split(vm.readFile("../tests/vectors/eip712.json"), "\n");
        // Made on a chain of its own, so that each vector's separator is computed where the vector says.
        vm.chainId(4242);
        address[] memory verifiers = new address[](1);
        verifiers[0] = address(1);
        IUSDC usdc = IUSDC(address(new TestUSDC("USDC")));
        _channelsCode = address(new OpenChannels(usdc)).code;
        _bondsCode = address(new Bonds(usdc, address(2), verifiers, 1, 1, 1e6, 3 days, 7 days)).code;
    }

    function test_digestsAndSignersAreThoseOfTheVectors() public {
        uint256 checked;
        for (uint256 i; i < _lines.length; ++i) {
            bytes memory line = bytes(_lines[i]);
            if (line.length < 3) continue;
            assembly ("memory-safe") {
                // Without the comma behind each vector but the last.
                let size := mload(line)
                if eq(byte(0, mload(add(line, add(31, size)))), 0x2c) { mstore(line, sub(size, 1)) }
            }
            if (_check(string(line))) ++checked;
        }
        checkEqual(checked, 96, "vectors");
    }

    /// @notice The worked example of docs/protocol.md, from the config of a channel to its first voucher.
    function test_workedExampleOfAChannel() public {
        address contract_ = 0xC1C1c1c1C1C1C1c1c1C1C1C1c1C1C1C1c1C1c1c1;
        vm.chainId(8453);
        vm.etch(contract_, _channelsCode);
        OpenChannels channels = OpenChannels(contract_);
        IChannels.Config memory cfg = IChannels.Config({
            payer: 0xA1A1a1a1A1A1A1A1A1a1a1a1a1a1A1A1a1A1a1a1,
            signer: vm.addr(1),
            payee: 0xb2b2b2b2b2B2b2B2B2b2b2B2B2b2B2B2b2b2b2b2,
            delay: 1 days,
            salt: bytes32(uint256(1))
        });
        bytes32 id = channels.channelId(cfg);
        checkEqual(id, 0x31c98c622eddafa4bddea34749159a2b06d122d9ac021cb6871005b31e19fdf1, "id");
        checkEqual(
            channels.domainSeparator(),
            0x2b2cdcdf6ae5dab4eb93563735a640b41e5c5d3a757782492575302a61881bf7,
            "separator"
        );
        bytes32 digest = channels.digestOfTwo(channels.VOUCHER_TYPEHASH(), id, 250_000);
        checkEqual(digest, 0x8e0629ad06a8b6700889f174134f51e996be86bd978c60bf4250f4f0dbd765d3, "digest");
    }

    /// @dev Whether the vector is of a type of `Channels` or `Bonds`; the token's own are checked on the chain.
    function _check(string memory line) private returns (bool) {
        string memory kind = vm.parseJsonString(line, ".type");
        address contract_ = vm.parseJsonAddress(line, ".domain.verifyingContract");
        bytes32 expected = vm.parseJsonBytes32(line, ".digest");
        vm.chainId(vm.parseJsonUint(line, ".domain.chainId"));
        bytes32 digest = _digest(line, keccak256(bytes(kind)), contract_);
        if (digest == 0) return false;
        checkEqual(digest, expected, kind);
        vm.etch(contract_, _channelsCode);
        address signer = OpenChannels(contract_).recover(digest, vm.parseJsonBytes(line, ".signature"));
        checkEqual(signer, vm.parseJsonAddress(line, ".signer"), kind);
        return true;
    }

    function _digest(string memory line, bytes32 kind, address contract_) private returns (bytes32) {
        bool isReceipt = kind == keccak256("Receipt");
        if (isReceipt || kind == keccak256("Verdict")) {
            vm.etch(contract_, _bondsCode);
            return isReceipt ? _receipt(line, Bonds(contract_)) : _verdict(line, Bonds(contract_));
        }
        vm.etch(contract_, _channelsCode);
        OpenChannels channels = OpenChannels(contract_);
        if (kind == keccak256("Allocate")) {
            return channels.digestOfAllocate(
                _word(line, "channelId"), uint96(_number(line, "total")), uint40(_number(line, "validBefore"))
            );
        }
        bytes32 typeHash;
        if (kind == keccak256("Voucher")) typeHash = channels.VOUCHER_TYPEHASH();
        else if (kind == keccak256("Close")) typeHash = channels.CLOSE_TYPEHASH();
        else if (kind == keccak256("RequestClose")) typeHash = channels.REQUEST_CLOSE_TYPEHASH();
        else return 0;
        string memory second = kind == keccak256("RequestClose") ? "validBefore" : "amount";
        return channels.digestOfTwo(typeHash, _word(line, "channelId"), _number(line, second));
    }

    function _receipt(string memory line, Bonds bonds) private view returns (bytes32) {
        return bonds.receiptHash(
            IBonds.Receipt({
                requestId: _word(line, "requestId"),
                channelId: _word(line, "channelId"),
                modelId: _word(line, "modelId"),
                requestHash: _word(line, "requestHash"),
                responseHash: _word(line, "responseHash"),
                inTokens: uint32(_number(line, "inTokens")),
                outTokens: uint32(_number(line, "outTokens")),
                amount: uint96(_number(line, "amount"))
            })
        );
    }

    function _verdict(string memory line, Bonds bonds) private view returns (bytes32) {
        bool onAppeal = vm.parseJsonBool(line, ".message.onAppeal");
        return bonds.verdictHash(_word(line, "receipt"), uint96(_number(line, "slash")), onAppeal);
    }

    function _word(string memory line, string memory field) private pure returns (bytes32) {
        return vm.parseJsonBytes32(line, string.concat(".message.", field));
    }

    function _number(string memory line, string memory field) private pure returns (uint256) {
        return vm.parseJsonUint(line, string.concat(".message.", field));
    }
}
