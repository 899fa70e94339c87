// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {ITestUSDC} from "./ITestUSDC.sol";
import {IUSDC} from "./IUSDC.sol";
import {IERC1271} from "./lib/Signatures.sol";

/// @dev It speaks in strings instead of errors with values, since programs that handle USDC meet those strings.
contract TestUSDC is ITestUSDC {
    // EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    // Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)
    bytes32 public constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    // TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,
    // bytes32 nonce)
    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    // ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,
    // bytes32 nonce)
    bytes32 public constant RECEIVE_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    // CancelAuthorization(address authorizer,bytes32 nonce)
    bytes32 public constant CANCEL_AUTHORIZATION_TYPEHASH =
        keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");

    uint256 private constant S_MAX = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    /// @dev Balance and blacklist share a word, as in the genuine token: its gas is then about the same.
    uint256 private constant BARRED = 1 << 255;

    string public override name;
    string public constant override symbol = "USDC";
    string public constant override version = "2";
    string public constant override currency = "USD";
    uint8 public constant override decimals = 6;

    address public immutable override owner = msg.sender;
    bytes32 private immutable _nameHash;

    bool public override paused;
    uint256 public override totalSupply;
    mapping(address account => uint256 balanceAndBar) private _states;
    mapping(address owner => mapping(address spender => uint256)) public override allowance;
    mapping(address owner => uint256) public override nonces;
    mapping(address authorizer => mapping(bytes32 nonce => bool)) public override authorizationState;

    modifier whenNotPaused() {
        require(!paused, "Pausable: paused");
        _;
    }

    modifier notBlacklisted(address account) {
        require(_states[account] < BARRED, "Blacklistable: account is blacklisted");
        _;
    }

    constructor(string memory tokenName) {
        name = tokenName;
        _nameHash = keccak256(bytes(tokenName));
        _states[address(this)] = BARRED;
    }

    /// @inheritdoc ITestUSDC
    function mint(address to, uint256 amount) external whenNotPaused notBlacklisted(msg.sender) returns (bool) {
        require(_states[to] < BARRED, "Blacklistable: account is blacklisted");
        require(to != address(0), "FiatToken: mint to the zero address");
        require(amount != 0, "FiatToken: mint amount not greater than 0");
        require(amount < BARRED - totalSupply, "FiatTokenV2_2: Balance exceeds (2^255 - 1)");
        totalSupply += amount;
        _states[to] += amount;
        emit Mint(msg.sender, to, amount);
        emit Transfer(address(0), to, amount);
        return true;
    }

    /// @inheritdoc IUSDC
    function transfer(address to, uint256 value) external whenNotPaused returns (bool) {
        _move(msg.sender, to, value);
        return true;
    }

    /// @inheritdoc IUSDC
    function transferFrom(address from, address to, uint256 value)
        external
        whenNotPaused
        notBlacklisted(msg.sender)
        notBlacklisted(from)
        notBlacklisted(to)
        returns (bool)
    {
        uint256 allowed = allowance[from][msg.sender];
        require(value <= allowed, "ERC20: transfer amount exceeds allowance");
        allowance[from][msg.sender] = allowed - value;
        _move(from, to, value);
        return true;
    }

    /// @inheritdoc ITestUSDC
    function approve(address spender, uint256 value) external whenNotPaused returns (bool) {
        _approve(msg.sender, spender, value);
        return true;
    }

    /// @inheritdoc ITestUSDC
    function increaseAllowance(address spender, uint256 increment) external whenNotPaused returns (bool) {
        uint256 allowed = allowance[msg.sender][spender];
        require(increment <= type(uint256).max - allowed, "SafeMath: addition overflow");
        _approve(msg.sender, spender, allowed + increment);
        return true;
    }

    /// @inheritdoc ITestUSDC
    function decreaseAllowance(address spender, uint256 decrement) external whenNotPaused returns (bool) {
        uint256 allowed = allowance[msg.sender][spender];
        require(decrement <= allowed, "ERC20: decreased allowance below zero");
        _approve(msg.sender, spender, allowed - decrement);
        return true;
    }

    /// @inheritdoc ITestUSDC
    function permit(address holder, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
    {
        permit(holder, spender, value, deadline, abi.encodePacked(r, s, v));
    }

    /// @inheritdoc IUSDC
    function permit(address holder, address spender, uint256 value, uint256 deadline, bytes memory signature)
        public
        whenNotPaused
    {
        // The greatest number means no deadline at all, as in the genuine token.
        require(deadline >= block.timestamp, "FiatTokenV2: permit is expired");
        bytes32 structHash = keccak256(abi.encode(PERMIT_TYPEHASH, holder, spender, value, nonces[holder]++, deadline));
        _checkSignature(holder, structHash, signature, "EIP2612: invalid signature");
        _approve(holder, spender, value);
    }

    /// @inheritdoc ITestUSDC
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        transferWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    /// @inheritdoc ITestUSDC
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public whenNotPaused notBlacklisted(from) notBlacklisted(to) {
        bytes32 structHash = keccak256(
            abi.encode(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        _useAuthorization(from, validAfter, validBefore, nonce, structHash, signature);
        _move(from, to, value);
    }

    /// @inheritdoc ITestUSDC
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        receiveWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    /// @inheritdoc IUSDC
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public whenNotPaused notBlacklisted(from) notBlacklisted(to) {
        require(to == msg.sender, "FiatTokenV2: caller must be the payee");
        bytes32 structHash =
            keccak256(abi.encode(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce));
        _useAuthorization(from, validAfter, validBefore, nonce, structHash, signature);
        _move(from, to, value);
    }

    /// @inheritdoc ITestUSDC
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external {
        cancelAuthorization(authorizer, nonce, abi.encodePacked(r, s, v));
    }

    /// @inheritdoc ITestUSDC
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature) public whenNotPaused {
        _requireUnused(authorizer, nonce);
        bytes32 structHash = keccak256(abi.encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce));
        _checkSignature(authorizer, structHash, signature, "FiatTokenV2: invalid signature");
        authorizationState[authorizer][nonce] = true;
        emit AuthorizationCanceled(authorizer, nonce);
    }

    /// @inheritdoc ITestUSDC
    function pause() external {
        require(msg.sender == owner, "Pausable: caller is not the pauser");
        _setPaused(true);
    }

    /// @inheritdoc ITestUSDC
    function unpause() external {
        require(msg.sender == owner, "Pausable: caller is not the pauser");
        _setPaused(false);
    }

    /// @inheritdoc ITestUSDC
    function setPaused(bool isPaused) external {
        require(msg.sender == owner, "Pausable: caller is not the pauser");
        _setPaused(isPaused);
    }

    /// @inheritdoc ITestUSDC
    function blacklist(address account) external {
        _setBlacklisted(account, true);
    }

    /// @inheritdoc ITestUSDC
    function unBlacklist(address account) external {
        _setBlacklisted(account, false);
    }

    /// @inheritdoc ITestUSDC
    function setBlacklisted(address account, bool isBarred) external {
        _setBlacklisted(account, isBarred);
    }

    /// @inheritdoc IUSDC
    function balanceOf(address account) external view returns (uint256) {
        return _states[account] & ~BARRED;
    }

    /// @inheritdoc ITestUSDC
    function isBlacklisted(address account) external view returns (bool) {
        return _states[account] >= BARRED;
    }

    /// @inheritdoc ITestUSDC
    function pauser() external view returns (address) {
        return owner;
    }

    /// @inheritdoc ITestUSDC
    function blacklister() external view returns (address) {
        return owner;
    }

    /// @inheritdoc ITestUSDC
    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return
            keccak256(abi.encode(DOMAIN_TYPEHASH, _nameHash, keccak256(bytes(version)), block.chainid, address(this)));
    }

    function _setPaused(bool isPaused) private {
        paused = isPaused;
        if (isPaused) emit Pause();
        else emit Unpause();
    }

    function _setBlacklisted(address account, bool isBarred) private {
        require(msg.sender == owner, "Blacklistable: caller is not the blacklister");
        uint256 balance = _states[account] & ~BARRED;
        _states[account] = isBarred ? balance | BARRED : balance;
        if (isBarred) emit Blacklisted(account);
        else emit UnBlacklisted(account);
    }

    function _approve(address holder, address spender, uint256 value) private {
        require(holder != address(0), "ERC20: approve from the zero address");
        require(spender != address(0), "ERC20: approve to the zero address");
        allowance[holder][spender] = value;
        emit Approval(holder, spender, value);
    }

    function _move(address from, address to, uint256 value) private notBlacklisted(from) notBlacklisted(to) {
        require(from != address(0), "ERC20: transfer from the zero address");
        require(to != address(0), "ERC20: transfer to the zero address");
        uint256 balance = _states[from];
        require(value <= balance, "ERC20: transfer amount exceeds balance");
        _states[from] = balance - value;
        // No sum of balances exceeds the supply, which `mint` keeps below the bar's bit.
        _states[to] += value;
        emit Transfer(from, to, value);
    }

    function _useAuthorization(
        address from,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes32 structHash,
        bytes memory signature
    ) private {
        require(block.timestamp > validAfter, "FiatTokenV2: authorization is not yet valid");
        require(block.timestamp < validBefore, "FiatTokenV2: authorization is expired");
        _requireUnused(from, nonce);
        _checkSignature(from, structHash, signature, "FiatTokenV2: invalid signature");
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
    }

    function _requireUnused(address authorizer, bytes32 nonce) private view {
        require(!authorizationState[authorizer][nonce], "FiatTokenV2: authorization is used or canceled");
    }

    /// @param refusal What is said where the signature is well formed and another's.
    function _checkSignature(address account, bytes32 structHash, bytes memory signature, string memory refusal)
        private
        view
    {
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", DOMAIN_SEPARATOR(), structHash));
        bool isGood =
            account.code.length == 0 ? _recover(digest, signature) == account : _isApproved(account, digest, signature);
        require(isGood, refusal);
    }

    function _recover(bytes32 digest, bytes memory signature) private pure returns (address recovered) {
        require(signature.length == 65, "ECRecover: invalid signature length");
        bytes32 r;
        bytes32 s;
        uint8 v;
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
        require(uint256(s) <= S_MAX, "ECRecover: invalid signature 's' value");
        require(v == 27 || v == 28, "ECRecover: invalid signature 'v' value");
        recovered = ecrecover(digest, v, r, s);
        require(recovered != address(0), "ECRecover: invalid signature");
    }

    function _isApproved(address account, bytes32 digest, bytes memory signature) private view returns (bool) {
        (bool answered, bytes memory answer) =
            account.staticcall(abi.encodeCall(IERC1271.isValidSignature, (digest, signature)));
        return
            answered && answer.length >= 32
                && abi.decode(answer, (bytes32)) == bytes32(IERC1271.isValidSignature.selector);
    }
}
