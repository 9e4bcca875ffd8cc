"""A server that takes clones, shared by the tests of this folder."""

from tests.contract.cloning import clone_home, clone_server, cloning, home

__all__ = ["clone_home", "clone_server", "cloning", "home"]
