from typing import Any

from botocore.config import Config

class Session:
    def client(
        self,
        service_name: str,
        *,
        region_name: str | None = ...,
        endpoint_url: str | None = ...,
        config: Config | None = ...,
    ) -> Any: ...
