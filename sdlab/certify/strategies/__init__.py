"""Certificates of guidance strategies: identities on a small network, and closed forms on Gaussians.

certificate = certify("apg")
"""

from sdlab.certify.strategies.certificate import StrategyCertificate, certify

__all__ = ["StrategyCertificate", "certify"]
