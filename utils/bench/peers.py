"""The peers that install from the package index; each serves the iris tree as its own documentation shows."""

from .contenders import Contender

PEERS: list[Contender] = []
