"""The configuration: parses and validates the TOML; the only reader of it.

Every refusal names the file, the key, what is wrong and what would be right.
"""

from __future__ import annotations

from pamfs.config.environment import (
    default_path,
    log_folder,
    runtime_folder,
    runtime_folders,
    session_bus,
    state_folder,
)
from pamfs.config.files import Inspection, inspect, load
from pamfs.config.tables import Guarding, Prompting, PromptWay
from pamfs.config.values import (
    Ahead,
    AnswerSource,
    CheckoutConfig,
    Config,
    FilesConfig,
    HelperConfig,
    HostKeyPolicy,
    KeySource,
    LoginConfig,
    OldAlgorithm,
    OtpPlace,
    OtpWhen,
    Owner,
    ProxyConfig,
    Quirk,
    SeguraConfig,
    SessionConfig,
    SourceKind,
    Symlinks,
    TargetConfig,
    TenantConfig,
)

__all__ = [
    "Ahead",
    "AnswerSource",
    "CheckoutConfig",
    "Config",
    "FilesConfig",
    "Guarding",
    "HelperConfig",
    "HostKeyPolicy",
    "Inspection",
    "KeySource",
    "LoginConfig",
    "OldAlgorithm",
    "OtpPlace",
    "OtpWhen",
    "Owner",
    "PromptWay",
    "Prompting",
    "ProxyConfig",
    "Quirk",
    "SeguraConfig",
    "SessionConfig",
    "SourceKind",
    "Symlinks",
    "TargetConfig",
    "TenantConfig",
    "default_path",
    "inspect",
    "load",
    "log_folder",
    "runtime_folder",
    "runtime_folders",
    "session_bus",
    "state_folder",
]
