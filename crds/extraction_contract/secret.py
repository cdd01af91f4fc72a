"""Secret: the standard kind, for local use. Nothing of it is ever shown."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, SecretStr

from extraction_contract.base import Contract
from extraction_contract.scalars import ObjectName


class SecretMetadata(Contract):
    """Name and namespace. Annotations are dropped: kubectl keeps a copy of the whole Secret in one of them."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName
    namespace: Annotated[str, Field(min_length=1, max_length=63)] | None = None


class Secret(Contract):
    """A Secret of Kubernetes. ``stringData`` wins over ``data``, as it does there."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    metadata: SecretMetadata
    type: str = "Opaque"
    immutable: bool = False
    data: dict[str, SecretStr] = Field(default_factory=dict)
    string_data: dict[str, SecretStr] = Field(default_factory=dict)

    def value(self, key: str) -> SecretStr | None:
        """Return the decoded value of a key; None when it isn't there.

        Raises
        ------
        ValueError
            The value isn't base64 of UTF-8 text; the message doesn't show it.
        """
        if key in self.string_data:
            return self.string_data[key]
        if key not in self.data:
            return None
        try:
            encoded = "".join(self.data[key].get_secret_value().split())
            return SecretStr(base64.b64decode(encoded, validate=True).decode())
        except (binascii.Error, UnicodeError):
            raise ValueError("the value isn't base64 of UTF-8 text") from None
