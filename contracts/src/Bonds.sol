// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IBonds} from "./IBonds.sol";
import {IUSDC} from "./IUSDC.sol";
import {Domain} from "./lib/Domain.sol";
import {Signatures} from "./lib/Signatures.sol";

/// @dev Where the money is: the sum of all bonds and of `owed` never exceeds this contract's balance of the token.
/// What a bond loses is owed to the sink, nothing else is. Judging never depends on the token: if the sink cannot be
/// paid, the money waits for `sweep`.
///
/// Not handled: a token that lies about balances, or that freezes this contract's address.
contract Bonds is IBonds, Domain {
    // Receipt(bytes32 requestId,bytes32 channelId,bytes32 modelId,bytes32 requestHash,bytes32 responseHash,
    // uint32 inTokens,uint32 outTokens,uint96 amount)
    bytes32 public constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(bytes32 requestId,bytes32 channelId,bytes32 modelId,bytes32 requestHash,bytes32 responseHash,uint32 inTokens,uint32 outTokens,uint96 amount)"
    );
    // Verdict(bytes32 receipt,uint96 slash,bool onAppeal)
    bytes32 public constant VERDICT_TYPEHASH = keccak256("Verdict(bytes32 receipt,uint96 slash,bool onAppeal)");

    /// @dev A seller must not lose sight of its money because of a wrong digit.
    uint32 public constant UNBOND_MAX = 90 days;

    /// @dev One slot. `openCases` keeps a bond in place even where equivocation has eaten what the cases had locked.
    struct Bond {
        uint96 amount;
        uint96 locked;
        uint40 unlockAt;
        uint16 openCases;
    }

    IUSDC public immutable override token;
    address public immutable override sink;
    uint96 public immutable override maxSlash;
    uint8 public immutable override k;
    uint8 public immutable override kAppeal;
    uint32 public immutable override window;
    uint32 public immutable override unbond;

    mapping(address account => bool) public override verifier;
    mapping(bytes32 receipt => Case) public override cases;
    /// @dev By seller too: else a cheat could use up the request ids of others with a key of its own.
    mapping(address seller => mapping(bytes32 requestId => bool)) public override faulted;
    uint256 public override owed;

    mapping(address seller => Bond) private _bonds;
    bool private transient _locked;

    /// @dev On every function that writes, so that nothing can be entered while the token is called.
    modifier locks() {
        if (_locked) revert Locked();
        _locked = true;
        _;
        _locked = false;
    }

    constructor(
        IUSDC usdc,
        address sink_,
        address[] memory verifiers,
        uint8 k_,
        uint8 kAppeal_,
        uint96 maxSlash_,
        uint32 window_,
        uint32 unbond_
    ) Domain("UnhostedBonds") {
        if (address(usdc).code.length == 0) revert BadAddress(address(usdc));
        if (sink_ == address(0) || sink_ == address(this) || sink_ == address(usdc)) revert BadAddress(sink_);
        if (k_ == 0 || k_ > kAppeal_ || kAppeal_ > verifiers.length) {
            revert BadQuorum(k_, kAppeal_, verifiers.length);
        }
        if (maxSlash_ == 0) revert BadMaximum(maxSlash_);
        if (window_ == 0 || unbond_ <= 2 * uint256(window_) || unbond_ > UNBOND_MAX) {
            revert BadTimes(window_, unbond_);
        }
        for (uint256 i; i < verifiers.length; ++i) {
            if (verifiers[i] == address(0) || verifier[verifiers[i]]) revert BadVerifier(verifiers[i]);
            verifier[verifiers[i]] = true;
        }
        token = usdc;
        sink = sink_;
        maxSlash = maxSlash_;
        k = k_;
        kAppeal = kAppeal_;
        window = window_;
        unbond = unbond_;
    }

    /// @inheritdoc IBonds
    function bond(uint96 value) external locks {
        uint256 balance = token.balanceOf(address(this));
        if (!token.transferFrom(msg.sender, address(this), value)) {
            revert TransferRefused(msg.sender, address(this), value);
        }
        // What else arrives, such as a gift, is nobody's bond.
        uint256 arrived = token.balanceOf(address(this)) - balance;
        if (arrived < value) revert Short(value, arrived);
        Bond storage own = _bonds[msg.sender];
        own.amount += value;
        own.unlockAt = 0;
        emit Bonded(msg.sender, value);
    }

    /// @inheritdoc IBonds
    function requestUnbond() external locks {
        Bond storage own = _bonds[msg.sender];
        if (own.amount == 0) revert NoBond(msg.sender);
        own.unlockAt = uint40(block.timestamp) + unbond;
        emit UnbondRequested(msg.sender, own.unlockAt);
    }

    /// @inheritdoc IBonds
    function unbondAll() external locks {
        Bond storage own = _bonds[msg.sender];
        if (own.unlockAt == 0 || block.timestamp < own.unlockAt) revert NotReady(own.unlockAt, block.timestamp);
        if (own.openCases != 0) revert CaseIsOpen(msg.sender, own.openCases);
        uint96 amount = own.amount;
        if (amount == 0) revert NoBond(msg.sender);
        own.amount = 0;
        own.unlockAt = 0;
        emit Unbonded(msg.sender, amount);
        if (!token.transfer(msg.sender, amount)) revert TransferRefused(address(this), msg.sender, amount);
    }

    /// @inheritdoc IBonds
    function slashEquivocation(
        Receipt calldata a,
        bytes calldata signatureA,
        Receipt calldata b,
        bytes calldata signatureB
    ) external locks {
        if (a.requestId != b.requestId) revert DifferentRequests(a.requestId, b.requestId);
        if (a.channelId != b.channelId) revert DifferentChannels(a.channelId, b.channelId);
        bytes32 hashA = receiptHash(a);
        bytes32 hashB = receiptHash(b);
        if (hashA == hashB) revert SameReceipt(hashA);
        address seller = _recover(hashA, signatureA);
        address sellerB = _recover(hashB, signatureB);
        if (seller != sellerB) revert DifferentSellers(seller, sellerB);
        if (faulted[seller][a.requestId]) revert AlreadySlashed(seller, a.requestId);
        // Not used up on an empty bond: it can be handed in again when there is one.
        if (_bonds[seller].amount == 0) revert NothingToSlash(seller);
        faulted[seller][a.requestId] = true;
        _slash(seller, hashA, maxSlash, true);
    }

    /// @inheritdoc IBonds
    function openCase(Receipt calldata receipt, bytes calldata signature, uint96 amount, bytes[] calldata verdicts)
        external
        locks
    {
        if (amount == 0 || amount > maxSlash) revert BadSlash(amount, maxSlash);
        bytes32 id = receiptHash(receipt);
        if (cases[id].state != State.None) revert CaseExists(id);
        _checkQuorum(verdictHash(id, amount, false), verdicts, k);
        address seller = _recover(id, signature);
        Bond storage held = _bonds[seller];
        uint96 unlocked = held.amount - held.locked;
        if (unlocked == 0) revert NothingToSlash(seller);
        uint96 claimed = amount < unlocked ? amount : unlocked;
        held.locked += claimed;
        ++held.openCases;
        uint40 readyAt = uint40(block.timestamp) + window;
        cases[id] = Case(seller, claimed, readyAt, State.Open);
        emit CaseOpened(id, seller, claimed, readyAt);
    }

    /// @inheritdoc IBonds
    function appeal(bytes32 receipt) external locks {
        Case storage current = cases[receipt];
        if (current.state != State.Open) revert CaseNotOpen(receipt, current.state);
        if (msg.sender != current.seller) revert NotSeller(msg.sender, current.seller);
        if (block.timestamp >= current.readyAt) revert TooLate(current.readyAt, block.timestamp);
        current.state = State.Appealed;
        current.readyAt = uint40(block.timestamp) + window;
        emit Appealed(receipt, msg.sender, current.readyAt);
    }

    /// @inheritdoc IBonds
    function finalize(bytes32 receipt, bytes[] calldata verdicts) external locks {
        Case storage current = cases[receipt];
        (address seller, uint96 amount, State state) = (current.seller, current.amount, current.state);
        bool isReady = block.timestamp >= current.readyAt;
        bool isDropped;
        if (state == State.Open) {
            if (!isReady) revert NotReady(current.readyAt, block.timestamp);
        } else if (state == State.Appealed) {
            if (isReady) isDropped = true;
            else _checkQuorum(verdictHash(receipt, amount, true), verdicts, kAppeal);
        } else {
            revert CaseNotOpen(receipt, state);
        }
        current.state = State.Done;
        Bond storage held = _bonds[seller];
        held.locked -= amount < held.locked ? amount : held.locked;
        --held.openCases;
        if (isDropped) emit CaseDropped(receipt, seller, amount);
        else _slash(seller, receipt, amount, false);
    }

    /// @inheritdoc IBonds
    function sweep() external locks {
        uint256 amount = owed;
        owed = 0;
        emit Swept(amount);
        if (!token.transfer(sink, amount)) revert TransferRefused(address(this), sink, amount);
    }

    /// @inheritdoc IBonds
    function bonds(address seller) external view returns (uint96 amount, uint96 locked, uint40 unlockAt, bool frozen) {
        Bond storage held = _bonds[seller];
        return (held.amount, held.locked, held.unlockAt, held.openCases != 0);
    }

    /// @inheritdoc IBonds
    function receiptHash(Receipt calldata receipt) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(RECEIPT_TYPEHASH, receipt)));
    }

    /// @inheritdoc IBonds
    function verdictHash(bytes32 receipt, uint96 amount, bool onAppeal) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(VERDICT_TYPEHASH, receipt, amount, onAppeal)));
    }

    /// @dev Takes up to `amount`. What is left locked is never more than what is left.
    function _slash(address seller, bytes32 receipt, uint96 amount, bool objective) private {
        Bond storage held = _bonds[seller];
        uint96 taken = amount < held.amount ? amount : held.amount;
        uint96 left = held.amount - taken;
        held.amount = left;
        if (held.locked > left) held.locked = left;
        emit Slashed(seller, receipt, taken, objective);
        if (taken == 0) return;
        // A fault of the token must not undo a judgement, least of all one that has to be given before a time.
        try token.transfer(sink, taken) returns (bool moved) {
            if (moved) emit Swept(taken);
            else owed += taken;
        } catch {
            owed += taken;
        }
    }

    function _recover(bytes32 digest, bytes calldata signature) private pure returns (address signer) {
        signer = Signatures.recover(digest, signature);
        if (signer == address(0)) revert BadSig(digest);
    }

    /// @dev Ascending order makes them different ones.
    function _checkQuorum(bytes32 verdict, bytes[] calldata signatures, uint8 needed) private view {
        if (signatures.length < needed) revert QuorumTooSmall(signatures.length, needed);
        address previous;
        for (uint256 i; i < signatures.length; ++i) {
            address signer = _recover(verdict, signatures[i]);
            if (signer <= previous || !verifier[signer]) revert NotVerifier(signer, previous);
            previous = signer;
        }
    }
}
