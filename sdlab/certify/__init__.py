"""Certificates: what a sampler claims of itself, measured on problems whose answer is known exactly.

certificates = [certify(subject) for subject in subjects("unipc")]
"""

from sdlab.certify.certificate import Certificate, certify
from sdlab.certify.subjects import Subject, subjects

__all__ = ["Certificate", "Subject", "certify", "subjects"]
