"""A server as a fresh checkout has it, shared by the tests of this folder."""

from tests.contract.docs.checkout import checkout, checkout_server

__all__ = ["checkout", "checkout_server"]
