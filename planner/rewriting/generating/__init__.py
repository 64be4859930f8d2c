"""Proposes rewrites: enumerates small terms, finds those that are equal, leaves out what is known (TASO, SOSP 2019)."""
