"""What is said of a connection to the orchestrator that does not come about."""

from __future__ import annotations

import ssl

from actors.wire.errors import causes, leaves


def describe_error(error: Exception, *, proxied: bool = False) -> str:
    """What the system says of it: of TLS, and of several addresses, the libraries have no words of their
    own. `proxied`: it may as well be the proxy that is not reached."""
    return f"through the proxy: {_describe(error)}" if proxied else _describe(error)


def _describe(error: Exception) -> str:
    said = ""
    for cause in causes(error):
        for found in leaves(cause) if isinstance(cause, BaseExceptionGroup) else [cause]:
            if isinstance(found, ssl.SSLCertVerificationError):
                return f"its certificate is not believed ({found.verify_message}); --ca-file says whose are"
            if isinstance(found, OSError) and found.strerror:
                said = found.strerror
    return said or str(error) or type(error).__name__
