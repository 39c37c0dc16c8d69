"""Names that leave as pseudonyms, made with a salt that stays here."""

import hashlib
import hmac
import secrets

from cot_builder.storage.output import write_text
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

SALT, SALT_DIGITS = "publish.salt", 64


def read_salt(workspace: Workspace) -> bytes:
    """This project's own salt, made once and never published: who has it can try names.

    Raises:
        IndusCotError: it is cut short.
    """
    path = workspace.root / ".indus-cot" / SALT
    if not path.is_file():
        write_text(path, secrets.token_hex(SALT_DIGITS // 2), private=True)
    salt = path.read_bytes()
    if len(salt.strip()) < SALT_DIGITS:
        raise IndusCotError(
            f"{path}: is cut short, and pseudonyms made with it could be guessed; take it from where the corpus was "
            "published before, or delete it, which gives every reviewer another pseudonym"
        )
    return salt


def make_pseudonym(salt: bytes, name: str, digits: int) -> str:
    """Hexadecimal digits that stand for a name; the same name has the same ones."""
    return hmac.new(salt, name.encode(), hashlib.sha256).hexdigest()[:digits]
