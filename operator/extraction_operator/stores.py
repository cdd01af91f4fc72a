"""Whether what the operator itself stores elsewhere is safe on its way: the record, and live progress in Redis."""

from contextlib import suppress

from extraction_contract.redis_url import RedisUrl, RedisUrlError
from extraction_operator.cluster.own_pod import PodCondition
from extraction_operator.config import Config
from extraction_record.connection import PlaceError

_TYPE = "StoresSecure"


def security(config: Config) -> PodCondition | None:
    """Return the condition of the pod that warns; None where nothing is stored.

    What can't be read is no weakness: whoever uses it says that it can't be.
    """
    if config.record is None and config.redis_url_file is None:
        return None
    found: dict[str, str] = {}
    if config.record is not None:
        with suppress(PlaceError):
            found["RecordNotSecure"] = config.record.place.weakness
    if config.redis_url_file is not None:
        with suppress(RedisUrlError):
            found["RedisNotSecure"] = RedisUrl.read(config.redis_url_file).weakness
    weak = {reason: message for reason, message in found.items() if message}
    if not weak:
        return PodCondition(
            _TYPE, True, _TYPE, "Servers prove their names, and nobody else can read what is sent there."
        )
    return PodCondition(_TYPE, False, next(iter(weak)), " ".join(weak.values()))
