"""Certificates: the claims of a sampler, measured on problems with known solutions.

certificates = [certify(subject) for subject in subjects("unipc")]
"""

from sdlab.certify.certificate import Certificate, certify
from sdlab.certify.subjects import Subject, subjects

__all__ = ["Certificate", "Subject", "certify", "subjects"]
