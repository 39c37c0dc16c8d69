"""Pseudonyms of names, made with a local salt."""

import hashlib
import hmac
import secrets

from cot_builder.storage.output import write_text
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

SALT, SALT_DIGITS = "publish.salt", 64


def read_salt(workspace: Workspace) -> bytes:
    """Read the project's salt; created once and never published, because its owner could test names.

    Raises:
        IndusCotError: the salt is truncated.
    """
    path = workspace.root / ".indus-cot" / SALT
    if not path.is_file():
        write_text(path, secrets.token_hex(SALT_DIGITS // 2), private=True)
    salt = path.read_bytes()
    if len(salt.strip()) < SALT_DIGITS:
        raise IndusCotError(
            f"{path}: truncated, so its pseudonyms could be guessed; restore it from the machine that published the "
            "corpus before, or delete it, which gives every reviewer a new pseudonym"
        )
    return salt


def make_pseudonym(salt: bytes, name: str, digits: int) -> str:
    """Hexadecimal pseudonym of a name; equal names have equal pseudonyms."""
    return hmac.new(salt, name.encode(), hashlib.sha256).hexdigest()[:digits]
