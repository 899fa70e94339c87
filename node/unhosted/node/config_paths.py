"""Where the node keeps its files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where the node keeps its files. With UNHOSTED_HOME all three are under it."""

    config_dir: Path
    data_dir: Path
    state_dir: Path

    @property
    def config_file(self) -> Path:
        return self.config_dir / "config.toml"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def identity_file(self) -> Path:
        """The key that makes this machine the one that others paired with; mode 0600."""
        return self.state_dir / "identity.key"

    @property
    def peers_file(self) -> Path:
        """The paired machines, what each may do, and where it was found."""
        return self.state_dir / "peers.db"

    @property
    def wallet_file(self) -> Path:
        """The operator's key, encrypted, unless `wallet.keystore` names another file."""
        return self.state_dir / "wallet.json"

    @property
    def deposits_dir(self) -> Path:
        """Deposits that wait for the owner's signature."""
        return self.state_dir / "deposits"

    @property
    def ledger_file(self) -> Path:
        """What this node paid and may pay."""
        return self.data_dir / "ledger.db"

    @property
    def ledger_seal_file(self) -> Path:
        """How far the ledger had come: not beside it, so that a backup put back shows."""
        return self.state_dir / "ledger.seal"

    @property
    def sales_file(self) -> Path:
        """Vouchers that sellers' nodes live on, and receipts."""
        return self.data_dir / "sales.db"

    @property
    def kept_file(self) -> Path:
        """Answers that were paid for, until they are checked: prompts and outputs, so not for backups."""
        return self.state_dir / "money" / "kept.db"

    @property
    def checks_file(self) -> Path:
        """What checking found of each seller."""
        return self.state_dir / "money" / "checks.db"

    @property
    def evidence_dir(self) -> Path:
        """Files against sellers that were convicted here; nothing of them leaves by itself."""
        return self.data_dir / "evidence"

    @property
    def calibration_dir(self) -> Path:
        """Noise tables that were measured here."""
        return self.data_dir / "calibration"

    @property
    def transactions_file(self) -> Path:
        """What this node's key sent to the chain, so that nothing is sent twice."""
        return self.data_dir / "transactions.db"

    @property
    def api_token_file(self) -> Path:
        """The key of the HTTP API, made at the first bind that needs one."""
        return self.state_dir / "api-token"
